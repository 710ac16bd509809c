//! A hand-written scanner for the default pattern and its relatives.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// The pattern of spec and reference: GPT-4's with one or two digits.
pub const DEFAULT_PATTERN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// The patterns that the scanner supports, with their longest digit group: ours, cl100k, Llama 3, Qwen 2. The last two
/// write the same language without possessive quantifiers.
const SCANNED_PATTERNS: [(&str, usize); 4] = [
    (DEFAULT_PATTERN, 2),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        1,
    ),
];

/// Returns the longest digit group of a pattern that is scanned; None for any other pattern.
pub(super) fn max_digits(pattern: &str) -> Option<usize> {
    SCANNED_PATTERNS.iter().find(|(known, _)| *known == pattern).map(|(_, max_digits)| *max_digits)
}

/// Visits the pieces of `text` in order.
#[inline]
pub(super) fn for_each<'t>(text: &'t str, max_digits: usize, visit: &mut impl FnMut(&'t str)) {
    let (classes, mut start) = (&*CLASSES, 0);
    while start < text.len() {
        let end = next_piece(classes, text, start, max_digits);
        visit(&text[start..end]);
        start = end;
    }
}

/// The character classes of the pattern: `\p{L}`, `\p{N}`, `[\r\n]`, the rest of `\s`, and everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum CharClass {
    Other,
    Letter,
    Number,
    Newline,
    Space,
}
use CharClass::{Letter, Newline, Number, Other, Space};

struct Classes {
    /// The class of every code point, one byte each (1.1 MB).
    chars: Box<[CharClass]>,
    /// The class of characters of three bytes by the first two, unless the third matters: no decoding for most Chinese
    /// characters.
    blocks: [Option<CharClass>; 1 << 10],
}

/// The classes according to the regex engine's own Unicode tables.
static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let mut chars = vec![Other; 0x11_0000].into_boxed_slice();
    for (pattern, class) in [(r"\p{L}", Letter), (r"\p{N}", Number), (r"\s", Space), (r"[\r\n]", Newline)] {
        let hir = regex_syntax::parse(pattern).expect("a valid class");
        let ranges: Vec<(u32, u32)> = match hir.kind() {
            HirKind::Class(Class::Unicode(class)) => {
                class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
            }
            other => unreachable!("{pattern} parses as {other:?}"),
        };
        for (first, last) in ranges {
            chars[first as usize..=last as usize].fill(class);
        }
    }
    let blocks = std::array::from_fn(|block| {
        let block = &chars[block << 6..(block + 1) << 6];
        block.iter().all(|class| *class == block[0]).then_some(block[0])
    });
    Classes { chars, blocks }
});

/// Returns the class and byte length of the character at `at`; None at the end of the text.
#[inline]
fn class_at(classes: &Classes, text: &str, at: usize) -> Option<(CharClass, usize)> {
    let bytes = text.as_bytes();
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((classes.chars[first as usize], 1));
    }
    if first >> 4 == 0xE
        && let Some(class) = classes.blocks[usize::from(first & 0xF) << 6 | usize::from(bytes[at + 1] & 0x3F)]
    {
        return Some((class, 3));
    }
    let c = text[at..].chars().next()?;
    Some((classes.chars[c as usize], c.len_utf8()))
}

/// Returns the end of the run of `class` that starts at `at` (`at` itself if there is none).
#[inline]
fn run_end(classes: &Classes, text: &str, mut at: usize, class: CharClass) -> usize {
    while let Some((found, len)) = class_at(classes, text, at)
        && found == class
    {
        at += len;
    }
    at
}

/// Returns the same as `run_end` for letters, with ASCII letters eight at a time: the end of a loop over single letters
/// would be a branch misprediction at nearly every word.
#[inline]
fn letters_end(classes: &Classes, text: &str, mut at: usize) -> usize {
    let bytes = text.as_bytes();
    while let Some(eight) = bytes.get(at..at + 8).and_then(<[u8]>::first_chunk)
        && eight[0] < 0x80
    {
        let letters = ascii_letters(u64::from_le_bytes(*eight));
        at += letters;
        if letters < 8 {
            if eight[letters] < 0x80 {
                return at;
            }
            break;
        }
    }
    run_end(classes, text, at, Letter)
}

/// Returns how many of eight bytes, the lowest first, are ASCII letters before one that is not.
#[inline]
fn ascii_letters(bytes: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // Converts the seven bits of each byte from upper to lower case; no sum overflows its byte.
    let low = (bytes | (0x20 * ONES)) & !HIGH;
    let (from_a, above_z) = (low + (0x80 - 0x61) * ONES, low + (0x80 - 0x7b) * ONES);
    let others = (!from_a | above_z | bytes) & HIGH;
    others.trailing_zeros() as usize / 8
}

/// Returns the end of the piece that starts at `start`, by the pattern's alternatives in order.
fn next_piece(classes: &Classes, text: &str, start: usize, max_digits: usize) -> usize {
    let (class, len) = class_at(classes, text, start).expect("a start inside the text");
    let after = start + len;
    match class {
        Letter => return letters_end(classes, text, after),
        Number => {
            let mut end = after;
            for _ in 1..max_digits {
                match class_at(classes, text, end) {
                    Some((Number, len)) => end += len,
                    _ => break,
                }
            }
            return end;
        }
        Newline => return white_space_end(classes, text, start),
        Other | Space => {}
    }
    if text.as_bytes()[start] == b'\''
        && let Some(end) = contraction_end(&text[after..])
    {
        return after + end;
    }
    match class_at(classes, text, after) {
        Some((Letter, len)) => letters_end(classes, text, after + len),
        Some((Other, _)) if text.as_bytes()[start] == b' ' => punctuation_end(classes, text, after),
        _ if class == Other => punctuation_end(classes, text, after),
        _ => white_space_end(classes, text, start),
    }
}

/// Matches `(?i:[sdmt]|ll|ve|re)` at the start of `text`. The long s folds to s, as in the regex.
fn contraction_end(text: &str) -> Option<usize> {
    match *text.as_bytes() {
        [b's' | b'd' | b'm' | b't' | b'S' | b'D' | b'M' | b'T', ..] => Some(1),
        [b'l' | b'L', b'l' | b'L', ..] | [b'v' | b'r' | b'V' | b'R', b'e' | b'E', ..] => Some(2),
        _ if text.starts_with('ſ') => Some('ſ'.len_utf8()),
        _ => None,
    }
}

/// Matches `[^\s\p{L}\p{N}]++[\r\n]*`.
fn punctuation_end(classes: &Classes, text: &str, at: usize) -> usize {
    let end = run_end(classes, text, at, Other);
    run_end(classes, text, end, Newline)
}

/// Matches `\s*[\r\n]|\s+(?!\S)|\s+`: up to the last newline of the white space; else all of it at the end of the text;
/// else all but its last character, which belongs to the next piece.
fn white_space_end(classes: &Classes, text: &str, start: usize) -> usize {
    let (mut end, mut last, mut after_newline) = (start, start, None);
    while let Some((class @ (Space | Newline), len)) = class_at(classes, text, end) {
        (last, end) = (end, end + len);
        if class == Newline {
            after_newline = Some(end);
        }
    }
    match after_newline {
        Some(end) => end,
        None if end == text.len() || last == start => end,
        None => last,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_code_point_has_the_class_of_the_regex() {
        let regex = |pattern| fancy_regex::Regex::new(pattern).unwrap();
        let all = [(Letter, regex(r"\p{L}")), (Number, regex(r"\p{N}")), (Newline, regex(r"[\r\n]"))];
        let space = regex(r"\s");
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let class = all.iter().find(|(_, regex)| regex.is_match(&text).unwrap()).map(|(class, _)| *class);
            let rest = if space.is_match(&text).unwrap() { Space } else { Other };
            assert_eq!(class_at(&CLASSES, &text, 0), Some((class.unwrap_or(rest), text.len())), "{c:?}");
        }
    }

    #[test]
    fn ascii_letters_are_counted_up_to_any_other_byte() {
        for other in (0..=u8::MAX).filter(|byte| !byte.is_ascii_alphabetic()) {
            for letters in 0..8 {
                let mut eight = *b"aZmAzQby";
                eight[letters] = other;
                assert_eq!(ascii_letters(u64::from_le_bytes(eight)), letters, "{other} behind {letters}");
            }
        }
        for letter in (0..=u8::MAX).filter(u8::is_ascii_alphabetic) {
            assert_eq!(ascii_letters(u64::from_le_bytes([letter; 8])), 8, "{letter}");
        }
    }

    /// Returns text of characters on which the alternatives differ, dense enough to interact.
    fn tricky_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => proptest::sample::select(vec![
                "'s", "'S", "'ll", "'LL", "'Ve", "'rE", "'d", "'ſ", "'x", "'", "’s", "a", "Z", "word", "Antwerpen", "é", "ß", "ſ",
                "0", "7", "42", "٣", "Ⅷ", "½", "一", "人工", "，", "。", "한", "ñ", "e\u{301}", "\u{301}", "\u{200d}",
                "👩", "_", "-", "!", "(", "<|bos|>", "\0", "\u{feff}",
            ]).prop_map(String::from),
            3 => proptest::sample::select(vec![
                " ", "  ", "\t", "\n", "\r", "\r\n", "\u{b}", "\u{c}", "\u{85}", "\u{a0}", "\u{1680}", "\u{2003}",
                "\u{2028}", "\u{3000}", "\u{1c}",
            ]).prop_map(String::from),
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn the_scanner_equals_the_regex() {
        let all = SCANNED_PATTERNS
            .map(|(pattern, max_digits)| (fancy_regex::Regex::new(pattern).unwrap(), max_digits));
        proptest!(ProptestConfig::with_cases(4_000), |(text in tricky_text())| {
            for (regex, max_digits) in &all {
                let expected: Vec<&str> = regex.find_iter(&text).map(|found| found.unwrap().as_str()).collect();
                let mut pieces = Vec::new();
                for_each(&text, *max_digits, &mut |piece| pieces.push(piece));
                prop_assert_eq!(pieces, expected);
            }
        });
    }
}
