//! Standard output that may be a full disk.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static SILENT: AtomicBool = AtomicBool::new(false);

/// From here on nothing is printed: this process is one of several ranks, and another speaks for all.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

pub fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// What `print!` and `println!` of this crate do. The standard library's panic when nothing can be
/// written, but `nanochat plan > table.txt` on a full disk is no mistake of the program's.
pub fn print(text: Arguments) {
    if is_silent() {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
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
