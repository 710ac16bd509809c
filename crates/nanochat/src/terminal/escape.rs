//! Escapes untrusted text before it is shown on a terminal. File names, a model's output and the errors that quote them
//! may contain control characters: an escape sequence can move the cursor, rename the window or write to the clipboard,
//! and a bidirectional override displays a text in another order (CVE-2021-42574). They are shown in Rust's notation:
//! `\u{1b}`.

use std::borrow::Cow;

/// Whether a terminal interprets `c` instead of showing it: C0, DEL and C1, line and paragraph separators, and
/// bidirectional embeddings, overrides and isolates. (Direction marks and joiners are kept: Arabic and emoji need
/// them.)
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Escapes text of several lines; newlines and tabs are kept.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_control(c) && !matches!(c, '\n' | '\t'))
}

/// Escapes a name or a sentence, which stays on one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

fn escaped(text: &str, is_harmful: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if is_harmful(c) => shown.push_str("\\n"),
            '\t' if is_harmful(c) => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if is_harmful(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_else_stays() {
        let name = "<|bos|>\n\u{1b}[31m";
        assert_eq!(line(name), "<|bos|>\\n\\u{1b}[31m");
        assert_eq!(text(name), "<|bos|>\n\\u{1b}[31m");
        assert_eq!(line("a\tb\rc\u{7f}\u{9b}2J"), "a\\tb\\rc\\u{7f}\\u{9b}2J");
        assert_eq!(text("a\tb\rc\0"), "a\tb\\rc\\u{0}");
        assert_eq!(line("\u{202e}gnp.exe\u{2066}\u{2028}"), "\\u{202e}gnp.exe\\u{2066}\\u{2028}");
        for plain in ["", "d4 说明 😀👩\u{200d}🚀", "سلام\u{200f}", "back\\slash \\u{1b}"] {
            assert!(matches!((text(plain), line(plain)), (Cow::Borrowed(_), Cow::Borrowed(_))), "{plain}");
        }
    }
}
