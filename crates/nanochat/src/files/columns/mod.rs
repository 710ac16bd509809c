//! Parquet files, column by column. What a file claims is held to bounds before memory is taken for it: its footer
//! ([`footer`]), what its pages take together ([`budget`]: 640 MiB), what a page unpacks to ([`unpack`]). A text has at most
//! 64 MiB, as a line of other files has, so that reading takes less than a GiB whatever the file. Each byte of a file is
//! unpacked once, so the time is in proportion to what its pages hold.

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

/// Errors here are reasons, in words: the caller knows which file and what follows from it.
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

    /// Rows of each row group.
    pub fn row_counts(&self) -> Vec<usize> {
        let groups = self.metadata.row_groups().iter();
        groups.map(|group| usize::try_from(group.num_rows()).unwrap_or(0)).collect()
    }

    fn pages(&self, row_group: usize, column: usize, budget: &Budget) -> Result<Pages> {
        let chunk = self.metadata.row_group(row_group).column(column);
        Pages::new(self.file.clone(), chunk, budget.clone()).map_err(reason)
    }

    /// The values of a column in a row group, whose columns share `budget`.
    pub fn column(&self, row_group: usize, column: usize, budget: &Budget) -> Result<ColumnReader> {
        let pages = self.pages(row_group, column, budget)?;
        Ok(get_column_reader(self.schema().column(column), Box::new(pages)))
    }
}

fn no(reason: impl Into<String>) -> ParquetError {
    ParquetError::External(Error::other(reason.into()).into())
}

/// The crate wraps the words of others in its own.
pub(crate) fn reason(error: ParquetError) -> String {
    match error {
        ParquetError::External(inner) => inner.to_string(),
        error => error.to_string(),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread reads a parquet file, so that a panic becomes an error: a panic hook has nothing to say of it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// The parquet crate checks its input, but promises no freedom from panics on hostile files; one
/// bad shard among thousands must not end a run.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = GUARDED.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    GUARDED.set(before);
    result.unwrap_or_else(|_| Err("its structure is damaged".into()))
}
