//! Finds near duplicates with MinHash (Broder 1997) and banding: 14 bands of 8 hashes over phrases of 5 words, as in
//! FineWeb. Two texts that share a fraction s of their phrases match with probability 1 − (1 − s⁸)¹⁴: 5 % at s = 0.5,
//! 92 % at 0.8, 99.9 % at 0.9.
//!
//! The 112 permutations are one good hash XOR 112 constants. The minimum of h(x) ⊕ r over a set belongs to the element
//! whose hash is nearest to r; every element has equal probability.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::words::{Word, WordKind, hash, mix, units_per_word};

const BANDS: usize = 14;
const HASHES_PER_BAND: usize = 8;
const HASHES: usize = BANDS * HASHES_PER_BAND;
const WORDS_PER_PHRASE: usize = 5;

/// The keys that identify a document: its exact hash and one key for each band (none if the text has too few words).
pub struct Signature {
    pub exact: u64,
    pub bands: Option<[u64; BANDS]>,
}

/// Returns the signature of a text. The bands ignore case, the values of digits, punctuation and spaces.
pub fn signature(text: &str, words: &[Word], language: &str, near: bool) -> Signature {
    let exact = mix(hash(text.as_bytes()));
    if !near {
        return Signature { exact, bands: None };
    }
    let mut folded = String::new();
    let proper = words.iter().filter(|word| word.kind != WordKind::Symbols);
    let hashes: Vec<u64> = proper.map(|word| folded_hash(word, text, &mut folded)).collect();
    let phrase = |words: &[u64]| (words.iter().fold(0, |h, word| mix(h ^ word)) >> 32) as u32;
    let phrases: Vec<u32> = hashes.windows(WORDS_PER_PHRASE * units_per_word(language)).map(phrase).collect();
    if phrases.is_empty() {
        return Signature { exact, bands: None };
    }
    let minima = minima(&phrases);
    let band = |b: usize| {
        let hashes = &minima[b * HASHES_PER_BAND..(b + 1) * HASHES_PER_BAND];
        hashes.iter().fold(mix(b as u64 + 1), |key, value| mix(key ^ u64::from(*value)))
    };
    Signature { exact, bands: Some(std::array::from_fn(band)) }
}

fn folded_hash(word: &Word, text: &str, folded: &mut String) -> u64 {
    let text = word.text(text);
    if word.kind == WordKind::Han || text.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return word.hash;
    }
    folded.clear();
    let digits_alike = |c: char| if c.is_numeric() { '0' } else { c };
    folded.extend(text.chars().flat_map(char::to_lowercase).map(digits_alike));
    hash(folded.as_bytes())
}

/// Returns, for each permutation, the smallest value over all phrases.
fn minima(phrases: &[u32]) -> [u32; HASHES] {
    let constants: [u32; HASHES] = std::array::from_fn(|i| (mix(!(i as u64)) >> 32) as u32);
    let mut minima = [u32::MAX; HASHES];
    pulp::Arch::new().dispatch(|| {
        for phrase in phrases {
            for (minimum, constant) in minima.iter_mut().zip(&constants) {
                *minimum = (*minimum).min(phrase ^ constant);
            }
        }
    });
    minima
}

/// The set of keys seen so far, in bounded memory: once it is full, new keys are no longer stored.
pub struct SeenDocuments {
    keys: HashSet<u64, BuildHasherDefault<AlreadyHashed>>,
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    New,
    Duplicate,
    NearDuplicate,
}

impl SeenDocuments {
    /// Makes a set that uses at most `bytes`, including growth: a table of 2ᵏ slots of 9 bytes, and the table of half
    /// the size that it grows from.
    pub fn within(bytes: usize) -> SeenDocuments {
        let slots = (bytes / 14).max(16).next_power_of_two() / 2;
        SeenDocuments { keys: HashSet::default(), most: slots / 8 * 7 }
    }

    pub fn is_full(&self) -> bool {
        self.keys.len() + BANDS + 1 > self.most
    }

    /// Returns whether this text or a similar one was seen before, then stores its keys.
    pub fn judge(&mut self, signature: &Signature) -> Verdict {
        if self.keys.contains(&signature.exact) {
            return Verdict::Duplicate;
        }
        let bands = signature.bands.iter().flatten();
        let near = bands.clone().any(|band| self.keys.contains(band));
        if !self.is_full() {
            self.keys.insert(signature.exact);
            self.keys.extend(bands);
        }
        if near { Verdict::NearDuplicate } else { Verdict::New }
    }
}

/// A hasher that returns its key unchanged, since keys are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Rng;

    use super::super::words::split;
    use super::*;

    fn signed(text: &str) -> Signature {
        let mut words = Vec::new();
        split(text, &mut words);
        signature(text, &words, "en", true)
    }

    /// Returns `n` words, each replaced by another with probability `changed`.
    fn text(seed: u64, n: usize, changed: f64) -> String {
        let (mut words, mut changes) = (Rng::new(&[seed]), Rng::new(&[seed, 1]));
        let word = |_| match (words.below(50_000), changes.uniform() < changed) {
            (_, true) => format!("other{} ", changes.below(50_000)),
            (word, false) => format!("word{word} ").replace(['0', '5'], "x"),
        };
        (0..n).map(word).collect()
    }

    #[test]
    fn alike_texts_meet_and_others_do_not() {
        let met = |changed: f64| {
            let meet = |seed| {
                let mut seen = SeenDocuments::within(1 << 20);
                seen.judge(&signed(&text(seed, 300, 0.0)));
                seen.judge(&signed(&text(seed, 300, changed))) == Verdict::NearDuplicate
            };
            (0..60).filter(|seed| meet(*seed)).count()
        };
        // One word in 100: 95 % of the phrases stay, s is about 0.9. Three in 100: 0.75. One in 5: 0.2.
        assert!(met(0.01) >= 52, "{}", met(0.01));
        assert!((20..=57).contains(&met(0.03)), "{}", met(0.03));
        assert_eq!(met(0.2), 0);
    }

    #[test]
    fn minima_estimate_the_shared_part() {
        let shared: Vec<u32> = (0..1_000).map(|i| mix(i) as u32).collect();
        let a: Vec<u32> = shared.iter().copied().chain((0..500).map(|i| mix(i + 10_000) as u32)).collect();
        let b: Vec<u32> = shared.into_iter().chain((0..500).map(|i| mix(i + 20_000) as u32)).collect();
        let equal = minima(&a).iter().zip(minima(&b)).filter(|(a, b)| **a == *b).count();
        // s = 1000 / 2000; 112 draws have a standard deviation of 5.3.
        assert!((40..=72).contains(&equal), "{equal}");
    }

    #[test]
    fn exact_duplicates_case_and_the_bound() {
        let mut seen = SeenDocuments::within(0);
        assert_eq!(seen.judge(&signed("the first text of all texts")), Verdict::New);
        assert_eq!(seen.judge(&signed("the first text of all texts")), Verdict::New); // no room for any
        let mut seen = SeenDocuments::within(1 << 16);
        assert_eq!(seen.judge(&signed("The 1st text of all texts.")), Verdict::New);
        assert_eq!(seen.judge(&signed("The 1st text of all texts.")), Verdict::Duplicate);
        assert_eq!(seen.judge(&signed("the 2st text, of ALL texts")), Verdict::NearDuplicate);
        assert_eq!(seen.judge(&signed("two words")), Verdict::New);
        (0..10_000).for_each(|i| _ = seen.judge(&Signature { exact: mix(i), bands: None }));
        assert!(seen.is_full() && seen.keys.capacity() * 9 < 1 << 16);
    }
}
