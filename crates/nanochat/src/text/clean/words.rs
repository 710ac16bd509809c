//! Splits text into the units that the rules count: words of letters and digits, single Chinese characters (which have
//! no spaces between them), and standalone symbols. Punctuation next to a word belongs to no unit.

use crate::text::language::is_han;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// A word with at least one letter.
    Letters,
    /// A single Chinese character.
    Han,
    Digits,
    Symbols,
}

#[derive(Clone, Copy, Debug)]
pub struct Word {
    pub start: u32,
    pub len: u32,
    /// The length in characters.
    pub chars: u32,
    pub kind: WordKind,
    /// The hash of the unchanged bytes.
    pub hash: u64,
}

impl Word {
    pub fn text<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start as usize..(self.start + self.len) as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Digit,
    Han,
    Symbol,
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Digit,
        '\t'..='\r' | ' ' => Class::Space,
        '_' => Class::Letter,
        '\0'..='\x7f' => Class::Symbol,
        c if is_han(c) => Class::Han,
        c if c.is_whitespace() => Class::Space,
        c if c.is_alphabetic() => Class::Letter,
        c if c.is_numeric() => Class::Digit,
        _ => Class::Symbol,
    }
}

/// Returns how many units make up a typical word of the language: Chinese words have one to three characters.
pub fn units_per_word(language: &str) -> usize {
    if matches!(language, "zh" | "ja") { 2 } else { 1 }
}

/// Fills `words` with the units of `text`, which is shorter than 4 GiB.
pub fn split(text: &str, words: &mut Vec<Word>) {
    words.clear();
    let mut after_space = true;
    let mut chars = text.char_indices().map(|(at, c)| (at, class(c))).peekable();
    while let Some((start, first)) = chars.next() {
        let (mut n, mut letters) = (1, first == Class::Letter);
        let goes_on = |next: Class| match first {
            Class::Letter | Class::Digit => next == Class::Letter || next == Class::Digit,
            Class::Symbol => next == Class::Symbol,
            Class::Han | Class::Space => false,
        };
        while let Some(&(_, next)) = chars.peek().filter(|(_, next)| goes_on(*next)) {
            (n, letters) = (n + 1, letters || next == Class::Letter);
            chars.next();
        }
        let alone = after_space && chars.peek().is_none_or(|(_, next)| *next == Class::Space);
        after_space = first == Class::Space;
        let kind = match first {
            Class::Space => continue,
            Class::Han => WordKind::Han,
            Class::Symbol if !alone => continue,
            Class::Symbol => WordKind::Symbols,
            _ if letters => WordKind::Letters,
            _ => WordKind::Digits,
        };
        let end = chars.peek().map_or(text.len(), |(at, _)| *at);
        let hash = hash(&text.as_bytes()[start..end]);
        words.push(Word { start: start as u32, len: (end - start) as u32, chars: n, kind, hash });
    }
}

/// Returns a 64-bit hash of bytes, read eight at a time; it is the same on every machine and in every run.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64 ^ 0x9E37_79B9_7F4A_7C15;
    for chunk in bytes.chunks(8) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(eight));
    }
    state
}

/// Mixes the bits of `x` by multiplying and folding, as wyhash does: a change of one bit changes about half of the
/// result's bits.
pub fn mix(x: u64) -> u64 {
    let wide = u128::from(x ^ 0xA076_1D64_78BD_642F) * 0xE703_7ED1_A0B4_28DB;
    wide as u64 ^ (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_mixed_text() {
        let text = "- Don't 用 Rust2024写，3.14!! naïve …\n";
        let mut words = Vec::new();
        split(text, &mut words);
        let found: Vec<&str> = words.iter().map(|word| word.text(text)).collect();
        assert_eq!(found, ["-", "Don", "t", "用", "Rust2024", "写", "3", "14", "naïve", "…"]);
        assert_eq!(words[4].kind, WordKind::Letters);
        assert_eq!(
            (words[6].kind, words[3].kind, words[0].kind),
            (WordKind::Digits, WordKind::Han, WordKind::Symbols)
        );
        assert_eq!(words[8].chars, 5);
        assert_eq!(words[1].hash, hash(b"Don"));
    }
}
