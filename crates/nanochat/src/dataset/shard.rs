//! One parquet file: its footer, and the texts of a row group a few rows at a time.

use std::fs::File;
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

/// Text packs to a tenth of its size; a column that claims to unpack to far more is made to fill the memory.
const MAX_UNPACKED: i64 = 64 << 20;
const MAX_RATIO: i64 = 200;

/// An open file whose string column `column` is read.
pub struct ParquetTexts {
    file: SerializedFileReader<File>,
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
        let file = guarded(|| SerializedFileReader::new(file).map_err(|error| error.to_string()))?;
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
            let group = self.file.get_row_group(row_group).map_err(|error| error.to_string())?;
            let chunk = group.metadata().column(self.column);
            let (packed, unpacked) = (chunk.compressed_size(), chunk.uncompressed_size());
            if unpacked > MAX_UNPACKED && unpacked / MAX_RATIO > packed {
                return Err(format!("{packed} bytes that unpack to {unpacked} are no text"));
            }
            let column = group.get_column_reader(self.column).map_err(|error| error.to_string())?;
            let ColumnReader::ByteArrayColumnReader(mut reader) = column else {
                return Err("the text column is not of strings".into());
            };
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let level_of_value = group.metadata().column(self.column).column_descr().max_def_level();
            let first = first.min(rows);
            let skipped = reader.skip_records(first).map_err(|error| error.to_string())?;
            if skipped < first {
                return Err(format!("row group {row_group} ends early"));
            }
            Ok(Rows { reader, level_of_value, left: rows - first })
        })
    }
}

impl Rows {
    /// The next up to `n` rows, empty at the end. A row without a value is None.
    pub fn next_rows(&mut self, n: usize) -> Result<Vec<Option<ByteArray>>> {
        let want = n.min(self.left);
        self.left -= want;
        let (mut values, mut levels) = (Vec::with_capacity(want), Vec::with_capacity(want));
        guarded(|| {
            let mut read = 0;
            while read < want {
                let levels = (self.level_of_value > 0).then_some(&mut levels);
                let (rows, ..) = self
                    .reader
                    .read_records(want - read, levels, None, &mut values)
                    .map_err(|error| error.to_string())?;
                if rows == 0 {
                    return Err("a row group ends early".to_string());
                }
                read += rows;
            }
            Ok(())
        })?;
        if self.level_of_value == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        let place = |&level| if level == self.level_of_value { values.next() } else { None };
        Ok(levels.iter().map(place).collect())
    }
}

/// The parquet crate checks its input, but promises no freedom from panics on hostile files; one
/// bad shard among thousands must not end a run.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("its structure is damaged".into()))
}
