//! One parquet file: its footer, and the texts of a row group a few rows at a time.

use std::fs::File;
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::ByteArrayType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::bounds::Bounded;
use crate::lines::MAX_LINE;

/// Text that is read at once, but for the document that exceeds it: a dictionary may repeat a long one for ever.
const CHUNK_BYTES: usize = 16 << 20;

/// An open file whose string column `column` is read.
pub struct ParquetTexts {
    file: SerializedFileReader<Bounded>,
    column: usize,
}

/// The rows of one row group; memory holds a page and the rows asked for.
pub struct Rows {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// Definition level of a row that has a value; 0 if every row has one.
    level_of_value: i16,
    left: usize,
}

/// Errors here are reasons, in words: the caller knows which file and what follows from it.
type Result<T> = std::result::Result<T, String>;

impl ParquetTexts {
    pub fn open(path: &Path, column: &str) -> Result<ParquetTexts> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let file = Bounded::new(file)?;
        let file = guarded(|| SerializedFileReader::new(file).map_err(reason))?;
        let columns = file.metadata().file_metadata().schema_descr().columns();
        let Some(index) = columns.iter().position(|c| c.path().string() == column) else {
            let names: Vec<String> = columns.iter().map(|c| c.path().string()).collect();
            return Err(format!("no column `{column}`, only {}", names.join(", ")));
        };
        let found = &columns[index];
        if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() > 0 {
            return Err(format!("column `{column}` does not hold one string a row"));
        }
        Ok(ParquetTexts { file, column: index })
    }

    pub fn num_row_groups(&self) -> usize {
        self.file.num_row_groups()
    }

    /// Rows of each row group.
    pub fn row_counts(&self) -> Vec<usize> {
        let groups = self.file.metadata().row_groups().iter();
        groups.map(|group| usize::try_from(group.num_rows()).unwrap_or(0)).collect()
    }

    /// The rows of a row group from `first` on (none if it is shorter).
    pub fn rows(&self, row_group: usize, first: usize) -> Result<Rows> {
        guarded(|| {
            let group = self.file.get_row_group(row_group).map_err(reason)?;
            let column = group.get_column_reader(self.column).map_err(reason)?;
            let ColumnReader::ByteArrayColumnReader(mut reader) = column else {
                return Err("the text column is not of strings".into());
            };
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let level_of_value = group.metadata().column(self.column).column_descr().max_def_level();
            let first = first.min(rows);
            let skipped = reader.skip_records(first).map_err(reason)?;
            if skipped < first {
                return Err(format!("row group {row_group} ends early"));
            }
            Ok(Rows { reader, level_of_value, left: rows - first })
        })
    }
}

impl Rows {
    /// The next up to `n` rows, fewer where they are long, empty at the end. A row without a value is None.
    pub fn next_rows(&mut self, n: usize) -> Result<Vec<Option<Vec<u8>>>> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while self.left > 0 && rows.len() < n && bytes < CHUNK_BYTES {
            let row = guarded(|| self.next_row())?;
            bytes += row.as_ref().map_or(0, Vec::len);
            rows.push(row);
        }
        Ok(rows)
    }

    fn next_row(&mut self) -> Result<Option<Vec<u8>>> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let levels = (self.level_of_value > 0).then_some(&mut levels);
        let (rows, ..) = self.reader.read_records(1, levels, None, &mut values).map_err(reason)?;
        if rows == 0 {
            return Err("a row group ends early".to_string());
        }
        self.left -= 1;
        let value = values.pop();
        if let Some(value) = &value
            && value.len() as u64 > MAX_LINE
        {
            return Err(format!("a document is longer than {} MiB", MAX_LINE >> 20));
        }
        Ok(value.map(|value| value.data().to_vec()))
    }
}

/// The crate wraps the words of others in its own. Of the ways to pack it knows those that unpack no more than a page says.
pub(crate) fn reason(error: ParquetError) -> String {
    match error {
        ParquetError::External(inner) => inner.to_string(),
        ParquetError::General(text) if text.starts_with("Disabled feature") => {
            "its pages are packed by another program than zstd and snappy; write it with one of these".into()
        }
        error => error.to_string(),
    }
}

/// The parquet crate checks its input, but promises no freedom from panics on hostile files; one
/// bad shard among thousands must not end a run.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("its structure is damaged".into()))
}
