//! CPython's `random.Random`: MT19937 (Matsumoto and Nishimura 1998) with the algorithms of `shuffle` and `sample`.

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// `random.Random(seed)` for an integer seed.
pub struct PythonRandom {
    state: [u32; N],
    at: usize,
}

impl PythonRandom {
    /// Seeds with the 32-bit words of |seed|, the lowest first (`init_by_array`).
    pub fn new(seed: i64) -> PythonRandom {
        let size = seed.unsigned_abs();
        let words = [size as u32, (size >> 32) as u32];
        let key = if words[1] == 0 { &words[..1] } else { &words[..] };
        let mut state = [0u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = mixed(1_812_433_253, state[i - 1]).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N {
            let mix = mixed(1_664_525, state[i - 1]);
            state[i] = (state[i] ^ mix).wrapping_add(key[j]).wrapping_add(j as u32);
            i = after(i, &mut state);
            j = (j + 1) % key.len();
        }
        for _ in 0..N - 1 {
            state[i] = (state[i] ^ mixed(1_566_083_941, state[i - 1])).wrapping_sub(i as u32);
            i = after(i, &mut state);
        }
        state[0] = 1 << 31;
        PythonRandom { state, at: N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let y = (self.state[i] & 1 << 31) | (self.state[(i + 1) % N] & !(1 << 31));
                let twist = if y & 1 == 0 { 0 } else { 0x9908_B0DF };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// Returns a uniform number in 0..n: takes as many top bits of a word as n has, until the number is below n.
    fn below(&mut self, n: usize) -> usize {
        let n = u32::try_from(n).ok().filter(|&n| n > 0).expect("1 to 2^32 - 1 choices");
        loop {
            let value = self.next_u32() >> n.leading_zeros();
            if value < n {
                return value as usize;
            }
        }
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Returns `k` different numbers below `n`, in the order drawn. Panics if k > n, where Python raises.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "a sample of {k} from {n}");
        // CPython copies the population if that is smaller than a set of k would be.
        let mut set_size = 21;
        if k > 5 {
            set_size += 4usize.pow((3.0 * k as f64).log(4.0).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            let one = |i| {
                let j = self.below(n - i);
                let drawn = pool[j];
                pool[j] = pool[n - i - 1];
                drawn
            };
            return (0..k).map(one).collect();
        }
        let mut seen = HashSet::new();
        let one = |_| {
            loop {
                let j = self.below(n);
                if seen.insert(j) {
                    return j;
                }
            }
        };
        (0..k).map(one).collect()
    }
}

/// Returns the index after `i`; after the last comes 1, and entry 0 becomes a copy of the last.
fn after(i: usize, state: &mut [u32; N]) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

fn mixed(factor: u32, word: u32) -> u32 {
    factor.wrapping_mul(word ^ (word >> 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in these tests were printed by CPython 3.11.
    #[test]
    fn words_are_pythons() {
        assert_eq!(PythonRandom::new(0).next_u32(), 3_626_764_237);
        assert_eq!(PythonRandom::new(1 << 40).next_u32(), 445_128_065);
    }

    #[test]
    fn shuffles_are_pythons() {
        let mut short: Vec<usize> = (0..10).collect();
        PythonRandom::new(1337).shuffle(&mut short);
        assert_eq!(short, [0, 3, 7, 2, 1, 6, 4, 5, 8, 9]);
        let mut long: Vec<usize> = (0..20_321).collect();
        PythonRandom::new(1337).shuffle(&mut long);
        assert_eq!(long[..5], [1_894, 11_899, 11_796, 19_943, 17_249]);
        assert_eq!(long[20_316..], [19_195, 18_709, 11_988, 17_474, 20_242]);
    }

    #[test]
    fn samples_are_pythons_on_both_paths() {
        let sample = |seed, n, k| PythonRandom::new(seed).sample(n, k);
        assert_eq!(sample(1234, 100, 10), [99, 56, 14, 0, 11, 74, 4, 85, 88, 10]);
        assert_eq!(sample(1235, 50, 10), [44, 27, 34, 37, 30, 25, 9, 22, 41, 48]);
        assert_eq!(sample(1236, 21, 3), [17, 15, 19]);
        assert_eq!(sample(1236, 22, 3), [17, 15, 21]);
        assert_eq!(sample(-7, 9, 3), [5, 2, 3]);
        let mut all = sample(5, 30, 30);
        all.sort();
        assert_eq!(all, (0..30).collect::<Vec<_>>());
    }
}
