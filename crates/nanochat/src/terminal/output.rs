//! Sentences for the user on standard error, where nobody may be to read them: a closed terminal, a dead `tee` or a full
//! disk must not end a run, and the standard library's `eprintln!` panics there.

use std::io::Write;

use crate::terminal::escape;

/// Writes lines for people, without what a terminal would obey.
pub fn tell(lines: &str) {
    let _ = std::io::stderr().write_all(format!("{}\n", escape::text(lines)).as_bytes());
}
