//! Reads whole data sets.

use std::path::{Path, PathBuf};

use super::TaskError;
use crate::files::file_error::FileError;
use crate::files::table::{Rows, TableRow, rows};
use crate::text::python_random::permutation;

/// The seed of `datasets.shuffle` in the reference.
const SHUFFLE_SEED: u32 = 42;

/// Returns one item for each row of `files`, in the reference's order: shuffled, so that the first items are a fair
/// sample.
pub fn shuffled<T>(
    files: &[PathBuf],
    item: impl Fn(&TableRow) -> Result<T, FileError>,
) -> Result<Vec<T>, TaskError> {
    shuffled_by(files, rows, item)
}

/// Works like [`shuffled`], on files that `open` reads.
pub fn shuffled_by<T>(
    files: &[PathBuf],
    open: impl Fn(&Path) -> Result<Rows, FileError>,
    item: impl Fn(&TableRow) -> Result<T, FileError>,
) -> Result<Vec<T>, TaskError> {
    let mut items = Vec::new();
    for file in files {
        for row in open(file)? {
            items.push(Some(item(&row?)?));
        }
    }
    match files.first() {
        Some(file) if items.is_empty() => Err(TaskError::Empty { path: file.clone() }),
        _ => {
            let order = permutation(SHUFFLE_SEED, items.len());
            Ok(order.into_iter().map(|i| items[i].take().expect("a permutation meets each once")).collect())
        }
    }
}
