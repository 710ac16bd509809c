//! Printing to a standard output that may be a full disk, with untrusted names and texts.
//!
//! `print!`, `println!` and `eprintln!` of this crate are for people: terminal escapes are escaped everywhere. Data
//! (answers, decoded text, JSON) is exact in a pipe and a file.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use nanochat::terminal::escape;
use serde::Serialize;

static SILENT: AtomicBool = AtomicBool::new(false);

/// Turns printing off: this process is one of several ranks, and another prints for all.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

pub fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// Whether to print colours: on a terminal, unless NO_COLOR is set to anything (no-color.org).
pub fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints text for people; `print!` and `println!` of this crate call it.
pub fn print(text: Arguments) {
    print_raw(&escape::text(&text.to_string()));
}

/// Writes a line to standard error, ignoring errors; `eprintln!` of this crate calls it.
pub fn tell(text: Arguments) {
    let _ = std::io::stderr().write_all(format!("{}\n", escape::text(&text.to_string())).as_bytes());
}

/// Prints data for programs: unchanged in a pipe or a file, escaped on a terminal.
pub fn print_data(text: &str) {
    match std::io::stdout().is_terminal() {
        true => print_raw(&escape::text(text)),
        false => print_raw(text),
    }
}

/// Prints JSON over several lines, with escapes for characters that could control a terminal: `"\\u009b"`.
pub fn print_json(value: &impl Serialize) -> serde_json::Result<()> {
    print_raw(&(json(value)? + "\n"));
    Ok(())
}

fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    // The remaining ones occur only in strings, and in the basic plane.
    let escaped = |c: char| match c {
        '\n' => "\n".to_string(),
        c if escape::is_control(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    Ok(if text.contains(escape::is_control) { text.chars().map(escaped).collect() } else { text })
}

/// Prints text unchanged. If writing fails, as on a full disk, the program ends with a sentence; the standard library's
/// `print!` would panic.
pub fn print_raw(text: &str) {
    if is_silent() {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        eprintln!("error: failed to write to standard output: {error}");
        std::process::exit(1);
    }
}

macro_rules! print {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

macro_rules! println {
    () => { print!("\n") };
    ($($text:tt)*) => { print!("{}\n", format_args!($($text)*)) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::output::tell(format_args!($($text)*)) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn json_means_the_same_and_drives_no_terminal() {
        let value = serde_json::json!({"a\u{9b}2J": "\u{1b}[31m\n\u{7f}\u{202e}é"});
        let text = super::json(&value).unwrap();
        assert!(!text.contains(|c| c != '\n' && nanochat::terminal::escape::is_control(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
