//! Reads files as lines, JSON, tables and columns, and writes them so that they are complete or absent.

pub mod atomic_file;
pub(crate) mod columns;
pub mod encoding;
pub mod file_error;
pub mod file_lock;
pub mod json;
pub mod json_records;
pub mod lines;
pub mod partial_dir;
pub mod table;
