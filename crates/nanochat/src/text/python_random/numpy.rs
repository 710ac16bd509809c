//! numpy's `default_rng(seed).permutation(n)`, with which Hugging Face's `datasets` shuffles: PCG64 (O'Neill 2014)
//! seeded by numpy's `SeedSequence`.

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// Returns 0..n in the order of `numpy.random.default_rng(seed).permutation(n)`.
pub fn permutation(seed: u32, n: usize) -> Vec<usize> {
    let mut rng = Pcg64::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.up_to(i));
    }
    order
}

struct Pcg64 {
    state: u128,
    increment: u128,
    /// The unused high half of the last 64 bits, which gives the next 32 bits.
    half: Option<u32>,
}

impl Pcg64 {
    fn new(seed: u32) -> Pcg64 {
        let [state, more_state, stream, more_stream] = seed_words(seed).map(u128::from);
        let increment = (stream << 64 | more_stream) << 1 | 1;
        let mut rng = Pcg64 { state: 0, increment, half: None };
        rng.step();
        rng.state = rng.state.wrapping_add(state << 64 | more_state);
        rng.step();
        rng
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let word = self.next_u64();
            self.half = Some((word >> 32) as u32);
            word as u32
        })
    }

    /// Returns a uniform number in 0..=max: takes as many low bits as max has, until the number is not above max.
    fn up_to(&mut self, max: usize) -> usize {
        let max = u32::try_from(max).expect("at most 2^32 rows");
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value as usize;
            }
        }
    }
}

/// Returns `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_words(seed: u32) -> [u64; 4] {
    let mut multiplier = 0x43B0_D7E5u32;
    let mut hash = |value: u32| {
        let value = value ^ multiplier;
        multiplier = multiplier.wrapping_mul(0x931E_8875);
        let value = value.wrapping_mul(multiplier);
        value ^ value >> 16
    };
    let mix = |x: u32, y: u32| {
        let value = x.wrapping_mul(0xCA01_F9DD).wrapping_sub(y.wrapping_mul(0x4973_F715));
        value ^ value >> 16
    };
    let mut pool = [seed, 0, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in 0..4 {
            if from != to {
                pool[to] = mix(pool[to], hash(pool[from]));
            }
        }
    }
    let mut multiplier = 0x8B51_F9DDu32;
    let mut word = |i: usize| {
        let value = pool[i % 4] ^ multiplier;
        multiplier = multiplier.wrapping_mul(0x58F3_8DED);
        let value = value.wrapping_mul(multiplier);
        u64::from(value ^ value >> 16)
    };
    std::array::from_fn(|i| word(2 * i) | word(2 * i + 1) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in these tests were printed by numpy 2.4.
    #[test]
    fn orders_are_numpys() {
        assert_eq!(permutation(42, 10), [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]);
        let long = permutation(42, 100_000);
        assert_eq!(long[..5], [45_262, 49_850, 30_394, 90_177, 95_569]);
        assert_eq!(long[99_995..], [34_957, 70_338, 5_668, 22_113, 75_400]);
        assert!(permutation(42, 0).is_empty());
    }

    #[test]
    fn words_are_numpys() {
        let mut rng = Pcg64::new(42);
        let words: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            words,
            [14_276_969_152_011_380_360, 8_095_878_257_575_067_585, 15_838_336_090_824_644_132]
        );
    }
}
