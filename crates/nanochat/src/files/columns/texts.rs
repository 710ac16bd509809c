//! Reads the texts of one parquet file, a few rows of a row group at a time.

use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::ByteArrayType;
use parquet::schema::types::ColumnDescPtr;

use super::{Budget, Columns, Result, guarded, reason};
use crate::files::lines::MAX_LINE;

/// The bytes of text after which a read stops; the last document may exceed it. A dictionary may repeat a long text any
/// number of times.
const CHUNK_BYTES: usize = 16 << 20;

/// An open file of which the string column `column` is read.
pub struct ParquetTexts {
    file: Columns,
    column: usize,
}

/// A reader of one row group's rows. Memory holds the dictionary, a page (640 MiB at most) and the requested rows.
pub struct Rows {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// The definition level of a row with a value; 0 if every row has one.
    level_of_value: i16,
    left: usize,
}

impl ParquetTexts {
    pub fn open(path: &Path, column: &str) -> Result<ParquetTexts> {
        let file = Columns::open(path)?;
        let columns = file.schema().columns();
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
        self.row_counts().len()
    }

    /// Returns the number of rows in each row group.
    pub fn row_counts(&self) -> Vec<usize> {
        self.file.row_counts()
    }

    /// Returns a reader of a row group's rows from `first` on (empty if there are fewer).
    pub fn rows(&self, row_group: usize, first: usize) -> Result<Rows> {
        guarded(|| {
            let rows = self.file.row_counts()[row_group];
            let first = first.min(rows);
            let mut pages = self.file.pages(row_group, self.column, &Budget::default())?;
            let passed = pages.pass(first).map_err(reason)?;
            let column: ColumnDescPtr = self.file.schema().column(self.column);
            let level_of_value = column.max_def_level();
            let mut reader = ColumnReaderImpl::new(column, Box::new(pages));
            for _ in passed..first {
                // Skips rows one by one, since the crate decodes together all values that it skips in a page.
                if reader.skip_records(1).map_err(reason)? == 0 {
                    return Err(format!("row group {row_group} ends early"));
                }
            }
            Ok(Rows { reader, level_of_value, left: rows - first })
        })
    }
}

impl Rows {
    /// Returns the next rows, up to `n`: fewer if they are long, none at the end. A row without a value is None.
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
