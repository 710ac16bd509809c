//! Words to spell: compounds of everyday parts (moonbird, honeylamp) and invented words of a few syllables (kelmora).
//! There are far more words than a model can memorize, but few parts: the tokenizer learns the parts, and a model that
//! knows them can spell a word it has never seen spelled.

use nanochat_tensor::Rng;

use super::{Split, Stream, World};

#[rustfmt::skip]
pub const HEADS: [&str; 48] = [
    "moon", "sun", "star", "rain", "snow", "wind", "cloud", "storm", "river", "lake", "sea", "stone",
    "hill", "forest", "field", "garden", "apple", "honey", "berry", "silver", "copper", "amber", "glass", "paper",
    "iron", "feather", "winter", "summer", "spring", "morning", "evening", "night", "dream", "candle", "lantern", "button",
    "ribbon", "velvet", "maple", "willow", "cedar", "clover", "ember", "frost", "thunder", "shadow", "pepper", "quiet",
];

#[rustfmt::skip]
pub const TAILS: [&str; 48] = [
    "bird", "fish", "fox", "bear", "light", "lamp", "bell", "boat", "bridge", "door", "gate", "house",
    "tower", "path", "road", "wall", "well", "leaf", "flower", "seed", "root", "branch", "grass", "bread",
    "cake", "cup", "bowl", "spoon", "coat", "hat", "shoe", "ring", "song", "book", "drum", "horn",
    "wheel", "clock", "key", "rope", "net", "basket", "box", "bench", "ladder", "mill", "jar", "blanket",
];

#[rustfmt::skip]
const SYLLABLES: [&str; 48] = [
    "ba", "bel", "bo", "cor", "dal", "dor", "du", "el", "fa", "fen", "gar", "gri",
    "hol", "jo", "ka", "kel", "lo", "lum", "ma", "mir", "mo", "na", "nel", "or",
    "pa", "pri", "qua", "ra", "rin", "ro", "sa", "sel", "ta", "tam", "tol", "tri",
    "um", "va", "vel", "vi", "wen", "wi", "xan", "ya", "yor", "za", "zel", "zo",
];

/// Returns an invented word of the world's old language.
pub fn any_invented(rng: &mut Rng) -> String {
    (0..2 + rng.below(2)).map(|_| *rng.choose(&SYLLABLES)).collect()
}

/// Returns every compound of two everyday parts.
pub fn compounds() -> Vec<String> {
    HEADS.iter().flat_map(|head| TAILS.iter().map(move |tail| [*head, *tail].concat())).collect()
}

/// Returns a random compound.
pub fn any_compound(rng: &mut Rng) -> String {
    [*rng.choose(&HEADS), *rng.choose(&TAILS)].concat()
}

/// Returns a random word of ordinary text, held out or not.
pub fn any_word(rng: &mut Rng) -> String {
    if rng.below(2) == 0 { any_compound(rng) } else { any_invented(rng) }
}

/// Returns `moon:m,o,o,n` for `moon`.
pub fn spelled(word: &str) -> String {
    format!("{word}:{}", letters(word))
}

/// Returns `m,o,o,n` for `moon`.
pub fn letters(word: &str) -> String {
    word.chars().map(String::from).collect::<Vec<_>>().join(",")
}

impl World {
    /// Whether a word is never spelled or counted in training: one in seven, decided by the word itself.
    pub(super) fn is_held_out_word(&self, word: &str) -> bool {
        let mut key = vec![self.seed, Stream::HeldOutWord as u64];
        key.extend(word.bytes().map(u64::from));
        Rng::new(&key).below(7) == 0
    }

    /// Returns a word to spell; in training it may also be a bare part.
    pub(super) fn word_to_spell(&self, split: Split, rng: &mut Rng) -> String {
        loop {
            let word = match (split, rng.below(16)) {
                (Split::Train, 0) => rng.choose(&HEADS).to_string(),
                (Split::Train, 1) => rng.choose(&TAILS).to_string(),
                _ => any_word(rng),
            };
            if self.is_held_out_word(&word) == (split == Split::Test) {
                return word;
            }
        }
    }
}

/// Returns a letter to count in the word, usually one that occurs in it.
pub fn letter_to_count(word: &str, rng: &mut Rng) -> char {
    let own: Vec<char> = word.chars().collect();
    if rng.below(5) == 0 { (b'a' + rng.below(26) as u8) as char } else { *rng.choose(&own) }
}

/// Returns the calculator's input. It has double quotes, because the tokenizer takes `'s`, `'m`, `'d` and `'t` for
/// contractions and would cut the first letter off many words.
pub fn count_code(word: &str, letter: char) -> String {
    format!("\"{word}\".count(\"{letter}\")")
}
