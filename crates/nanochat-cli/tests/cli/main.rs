//! Tests the `nanochat` binary, from nothing to a chat model, with what can go wrong on the way.
//!
//! The slow tests (`kills`, `full_disk`, `ranks`) take minutes and run only if NANOCHAT_SLOW=1 is set.

mod bad_input;
mod common;
mod conversations;
mod data;
#[cfg(unix)]
mod downloads;
mod foreign;
#[cfg(target_os = "linux")]
mod full_disk;
mod guide;
#[cfg(unix)]
mod interrupts;
#[cfg(unix)]
mod kills;
mod measuring;
mod parquet;
mod pipeline;
#[cfg(target_os = "linux")]
mod ranks;
mod reports;
mod resume;
mod sentences;
#[cfg(unix)]
mod terminal;
mod text_files;
