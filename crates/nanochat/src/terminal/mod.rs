//! What the program is told and says on a terminal: values of flags, commands to paste, counts in sentences, and text of
//! strangers made harmless.

pub mod command_line;
pub mod counted;
pub mod environment;
pub mod escape;
pub mod flag_values;
pub mod output;
