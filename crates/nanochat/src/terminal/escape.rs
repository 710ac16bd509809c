//! Text of strangers on a terminal. Names in foreign files, what a model says and what errors quote of both may hold control
//! characters: an escape sequence moves the cursor, renames the window or writes into the clipboard, and a bidirectional
//! override shows a text in another order than it has (CVE-2021-42574). They are shown as Rust writes them: `\u{1b}`.

use std::borrow::Cow;

/// Whether a terminal obeys `c` instead of showing it: C0, DEL and C1, the separators of lines and paragraphs, and what
/// embeds, overrides or isolates a direction. (Marks of direction and joiners stay: Arabic and emoji need them.)
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Lines of text: newlines and tabs stay.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_control(c) && !matches!(c, '\n' | '\t'))
}

/// A name, or a sentence that quotes some: one line.
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
