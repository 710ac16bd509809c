//! Standard output that may be a full disk.

use std::fmt::Arguments;
use std::io::Write;

/// What `print!` and `println!` of this crate do. The standard library's panic when nothing can be
/// written, but `nanochat plan > table.txt` on a full disk is no mistake of the program's.
pub fn print(text: Arguments) {
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
