//! Normalizes text: Unicode NFC, one width, no control characters, no spaces at line ends.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The treatment of full-width forms (U+FF01–FF5E, U+3000).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Width {
    /// Convert all to ASCII, Chinese ，！？：； included
    #[default]
    Half,
    /// Convert letters and digits to ASCII; keep punctuation and the wide space
    Letters,
    /// Keep all
    Keep,
}

/// Returns the normalized text of a document, empty if nothing is left. Removes control and invisible characters
/// (except tab and newline), lines of symbols alone longer than [`SYMBOLS`], and all but one of several blank lines.
pub fn normalize(text: &str, width: Width, lines_dropped: &mut usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = 0; // since the last line kept
    let mut line = String::new();
    for raw in nfc(text).split(['\n', '\u{2028}', '\u{2029}']) {
        line.clear();
        push_clean(raw, width, &mut line);
        let trimmed = line.trim_end();
        if trimmed.is_empty() {
            blank += 1;
        } else if is_separator(trimmed) {
            *lines_dropped += 1;
        } else {
            if !out.is_empty() {
                out.push_str(if blank > 0 { "\n\n" } else { "\n" });
            }
            out.push_str(trimmed);
            blank = 0;
        }
    }
    out
}

fn nfc(text: &str) -> Cow<'_, str> {
    match text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        true => Cow::Borrowed(text),
        false => Cow::Owned(text.nfc().collect()),
    }
}

/// Appends `raw` to `line` without control characters and in the given width. Runs of plain ASCII are copied whole.
fn push_clean(raw: &str, width: Width, line: &mut String) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    let mut rest = raw;
    while let Some(first) = rest.chars().next() {
        let run = rest.bytes().take_while(|byte| plain(byte)).count();
        if run > 0 {
            line.push_str(&rest[..run]);
            rest = &rest[run..];
            continue;
        }
        if let Some(c) = cleaned(first, width) {
            line.push(c);
        }
        rest = &rest[first.len_utf8()..];
    }
}

fn cleaned(c: char, width: Width) -> Option<char> {
    match c {
        '\u{4e00}'..='\u{9fff}' => Some(c), // most of a Chinese text returns here
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => None,
        // Soft hyphen, zero-width spaces and marks, directions, byte order mark; the joiners U+200C and
        // U+200D stay, for Persian and emoji.
        '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' => None,
        '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => None,
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' => Some(' '),
        '\u{3000}' if width == Width::Half => Some(' '),
        '\u{ff01}'..='\u{ff5e}' => {
            let half =
                char::from_u32(c as u32 - 0xfee0).expect("ASCII lies 0xFEE0 below its full-width forms");
            let changes = width == Width::Half || width == Width::Letters && half.is_ascii_alphanumeric();
            Some(if changes { half } else { c })
        }
        _ => Some(c),
    }
}

/// The maximum characters of a line of symbols that is kept; longer ones are separators without content.
const SYMBOLS: usize = 3;

fn is_separator(line: &str) -> bool {
    line.chars().nth(SYMBOLS).is_some() && !line.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(text: &str) -> String {
        normalize(text, Width::Half, &mut 0)
    }

    #[test]
    fn one_form() {
        assert_eq!(half("ＡＢＣ，１２３！\u{3000}「好」～"), "ABC,123! 「好」~");
        assert_eq!(normalize("ＡＢ，１！\u{3000}好", Width::Letters, &mut 0), "AB，1！\u{3000}好");
        assert_eq!(normalize("ＡＢ，１！", Width::Keep, &mut 0), "ＡＢ，１！");
        assert_eq!(half("e\u{301}a\u{feff}\u{200b}b\u{7}c\u{85}\tq"), "éabc\tq");
        assert_eq!(half("one \r\n\r\n\n\u{a0}\ntwo\t\nthree"), "one\n\ntwo\nthree");
        assert_eq!(half(" \n\u{0} \n"), "");
        // Half-width katakana and full-width currency signs lie outside U+FF01–FF5E.
        assert_eq!(half("ｱ￥"), "ｱ￥");
    }

    #[test]
    fn lines_of_symbols_alone_go_and_are_counted() {
        let mut dropped = 0;
        let text = "a\n-----\n* * *\n...\n……………\nb";
        assert_eq!(normalize(text, Width::Half, &mut dropped), "a\n...\nb");
        assert_eq!(dropped, 3);
    }

    proptest::proptest! {
        #[test]
        fn doing_it_twice_changes_nothing(text: String) {
            let once = half(&text);
            proptest::prop_assert_eq!(&half(&once), &once);
        }
    }
}
