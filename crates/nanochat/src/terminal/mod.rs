//! Terminal input and output: the values of flags, commands to paste, counts in sentences, and escaping of untrusted
//! text.

pub mod command_line;
pub mod counted;
pub mod environment;
pub mod escape;
pub mod flag_values;
pub mod output;
