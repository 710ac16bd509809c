//! Reads parquet files column by column. Every claim of a file is checked against a limit before memory is allocated
//! for it: the footer ([`footer`]), the total size of its pages ([`budget`]: 640 MiB), the unpacked size of a page
//! ([`unpack`]). A text has at most 64 MiB, like a line of other files, so that reading takes less than a GiB for any
//! file. Each byte of a file is unpacked once, so the time is proportional to the content of its pages.

mod budget;
mod delta;
mod footer;
mod page_head;
mod pages;
mod texts;
mod thrift;
mod unpack;

use std::cell::Cell;
use std::fs::File;
use std::io::Error;
use std::path::Path;
use std::sync::Arc;

use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescriptor;

pub(crate) use budget::Budget;
use pages::Pages;
pub use texts::{ParquetTexts, Rows};

/// Errors here are reasons in words; the caller adds the file and the consequence.
type Result<T> = std::result::Result<T, String>;

/// An open file whose footer has been read.
pub(crate) struct Columns {
    file: Arc<File>,
    metadata: ParquetMetaData,
}

impl Columns {
    pub fn open(path: &Path) -> Result<Columns> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let metadata = guarded(|| footer::read(&file).map_err(reason))?;
        Ok(Columns { file: Arc::new(file), metadata })
    }

    pub fn schema(&self) -> &SchemaDescriptor {
        self.metadata.file_metadata().schema_descr()
    }

    /// Returns the number of rows in each row group.
    pub fn row_counts(&self) -> Vec<usize> {
        let groups = self.metadata.row_groups().iter();
        groups.map(|group| usize::try_from(group.num_rows()).unwrap_or(0)).collect()
    }

    fn pages(&self, row_group: usize, column: usize, budget: &Budget) -> Result<Pages> {
        let chunk = self.metadata.row_group(row_group).column(column);
        Pages::new(self.file.clone(), chunk, budget.clone()).map_err(reason)
    }

    /// Returns a reader of a column's values in a row group, whose columns share `budget`.
    pub fn column(&self, row_group: usize, column: usize, budget: &Budget) -> Result<ColumnReader> {
        let pages = self.pages(row_group, column, budget)?;
        Ok(get_column_reader(self.schema().column(column), Box::new(pages)))
    }
}

fn no(reason: impl Into<String>) -> ParquetError {
    ParquetError::External(Error::other(reason.into()).into())
}

/// Returns the message of an error; for an error that the parquet crate wraps, only the inner message.
pub(crate) fn reason(error: ParquetError) -> String {
    match error {
        ParquetError::External(inner) => inner.to_string(),
        error => error.to_string(),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is reading a parquet file. A panic then becomes an error, so a panic hook must not print it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs `read` and turns a panic into an error. The parquet crate checks its input but may panic on hostile files, and
/// one bad shard among thousands must not end a run.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = GUARDED.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    GUARDED.set(before);
    result.unwrap_or_else(|_| Err("its structure is damaged".into()))
}
