//! Normalizes to Unicode's composed form (NFC), as `tokenizers` does.
//!
//! `tokenizers` has the tables of Unicode 9.0 and neither composes nor reorders later characters. Our tables are newer,
//! so later characters are left out of normalization, which applies to the stretches between them.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, ClassUnicode, HirKind};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Returns `text` in composed form.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    // A text that is composed by today's tables is also composed by the old ones.
    if is_nfc(text) {
        return Cow::Borrowed(text);
    }
    let mut composed = String::with_capacity(text.len());
    let mut start = 0;
    for (at, c) in text.char_indices().filter(|(_, c)| !known(*c)) {
        composed.extend(text[start..at].nfc());
        composed.push(c);
        start = at + c.len_utf8();
    }
    composed.extend(text[start..].nfc());
    Cow::Owned(composed)
}

fn known(c: char) -> bool {
    static UNICODE_9: LazyLock<ClassUnicode> =
        LazyLock::new(|| match regex_syntax::parse(r"\p{age:9.0}").expect("a valid class").into_kind() {
            HirKind::Class(Class::Unicode(class)) => class,
            other => unreachable!("a class parses as {other:?}"),
        });
    let after = UNICODE_9.ranges().partition_point(|range| range.start() <= c);
    after > 0 && c <= UNICODE_9.ranges()[after - 1].end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_younger_than_unicode_9_stay_as_they_are() {
        assert_eq!(nfc("e\u{301}a\u{301}"), "éá");
        assert_eq!(nfc("e\u{301} \u{11935}\u{11930}"), "é \u{11935}\u{11930}");
        assert!("\u{11935}\u{11930}".nfc().eq(['\u{11938}']));
        assert_eq!(nfc("a\u{1abf}\u{323}\u{301}"), "a\u{1abf}\u{323}\u{301}");
        assert!(known('\0') && known('人') && !known('\u{11935}'));
    }
}
