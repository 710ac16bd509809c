//! Random streams by key. A stream is named by numbers (seed, step, sample, …), never by the order in which it was made
//! or by the process that draws from it, so every draw can be repeated alone.
//!
//! The generator is xoshiro256++ (Blackman and Vigna 2019); splitmix64 fills its state from the key.

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Makes the stream of `key`. Other keys, including longer or permuted ones, give independent streams.
    pub fn new(key: &[u64]) -> Rng {
        let mut hash = 0x243F_6A88_85A3_08D3 ^ key.len() as u64;
        for &part in key {
            hash = splitmix64(&mut { hash ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15) });
        }
        Rng { state: std::array::from_fn(|_| splitmix64(&mut hash)) }
    }

    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Returns a uniform number in [0, 1) with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a uniform integer in 0..n, without bias (Lemire 2019).
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "below(0) has no value to draw");
        let n = n as u64;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= n.wrapping_neg() % n {
                return (wide >> 64) as usize;
            }
        }
    }

    /// Returns a standard normal number (Box–Muller, one of the pair).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Shuffles the items (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_repeatable_and_differ_by_every_part_of_the_key() {
        let first = |key: &[u64]| Rng::new(key).next_u64();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        let keys: [&[u64]; 6] = [&[1, 2], &[2, 1], &[1], &[1, 2, 0], &[], &[0]];
        let firsts: std::collections::HashSet<u64> = keys.iter().map(|key| first(key)).collect();
        assert_eq!(firsts.len(), keys.len());
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut rng = Rng::new(&[7]);
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(rng.normal())).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn below_reaches_every_value_evenly() {
        let (mut rng, mut counts) = (Rng::new(&[3]), [0; 7]);
        (0..70_000).for_each(|_| counts[rng.below(7)] += 1);
        assert!(counts.iter().all(|&n| (9_500..10_500).contains(&n)), "{counts:?}");
    }
}
