//! Writes messages for the user to standard error, which may be unreadable: a closed terminal, a dead `tee` or a full
//! disk must not end a run, while the standard library's `eprintln!` panics in these cases.

use std::io::Write;

use crate::terminal::escape;

/// Writes lines for the user, with control characters escaped.
pub fn tell(lines: &str) {
    let _ = std::io::stderr().write_all(format!("{}\n", escape::text(lines)).as_bytes());
}
