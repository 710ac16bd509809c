//! Reads the rows of a parquet file one at a time, including lists and structs. A dictionary or a list of differences
//! may expand to far more text than the file has, so a row is limited to 128 MiB.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::ConvertedType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::schema::types::ColumnDescPtr;
use serde_json::{Map, Number, Value};

use super::nested::{Leaf, Node};
use super::{Rows, TableRow};
use crate::files::columns::{Budget, Columns, guarded, reason};
use crate::files::file_error::FileError;
use crate::files::lines::MAX_LINE;

/// The maximum bytes of a row with all its columns: two of the longest documents.
const MAX_ROW: usize = 2 * MAX_LINE as usize;
/// The minimum bytes counted for a value of a row.
const VALUE_BYTES: usize = 16;

pub fn rows(path: &Path) -> Result<Rows, FileError> {
    let shared: Arc<Path> = path.into();
    let opened = guarded(|| Columns::open(path).map(Records::open));
    let mut records = Some(opened.map_err(|reason| FileError::BadFile { path: path.into(), reason })?);
    let mut number = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        number += 1;
        let row = TableRow { path: shared.clone(), number, columns: Map::new() };
        let reader = records.as_mut()?;
        match guarded(|| reader.next()) {
            Ok(columns) => Some(Ok(TableRow { columns: columns?, ..row })),
            Err(reason) => {
                records = None; // the rest of the file is unreliable
                Some(Err(row.bad(reason)))
            }
        }
    })))
}

struct Records {
    file: Columns,
    root: Node,
    /// The remaining row groups and their numbers of rows, the next one last.
    groups: Vec<(usize, usize)>,
    /// The columns of the row group being read.
    columns: Vec<RowColumn>,
    budget: Budget,
    left: usize,
}

struct RowColumn {
    index: usize,
    reader: ColumnReader,
    descr: ColumnDescPtr,
    /// The bytes counted for a value besides its text: structs in lists repeat the names of their fields.
    value_bytes: usize,
}

impl Records {
    fn open(file: Columns) -> Records {
        let root = Node::of_schema(file.schema());
        let groups = file.row_counts().into_iter().enumerate().rev().collect();
        Records { file, root, groups, columns: Vec::new(), budget: Budget::default(), left: 0 }
    }

    fn next(&mut self) -> Result<Option<Map<String, Value>>, String> {
        while self.left == 0 {
            let Some((group, rows)) = self.groups.pop() else { return Ok(None) };
            self.columns.clear();
            self.columns = self.open_columns(group)?;
            self.left = rows;
        }
        self.left -= 1;
        self.budget.next_row();
        let mut leaves = Vec::new();
        leaves.resize_with(self.file.schema().num_columns(), Leaf::default);
        let mut room = MAX_ROW;
        for column in &mut self.columns {
            leaves[column.index] = column.next(&mut room)?;
        }
        match self.root.value(&mut leaves) {
            Some(Value::Object(columns)) if leaves.iter().all(Leaf::is_read) => Ok(Some(columns)),
            _ => Err("its structure is damaged".into()),
        }
    }

    fn open_columns(&self, row_group: usize) -> Result<Vec<RowColumn>, String> {
        let mut read = Vec::new();
        self.root.columns(&mut read);
        let open = |index| {
            let descr = self.file.schema().column(index);
            let value_bytes = VALUE_BYTES + descr.path().string().len();
            Ok(RowColumn {
                index,
                reader: self.file.column(row_group, index, &self.budget)?,
                descr,
                value_bytes,
            })
        };
        read.into_iter().map(open).collect()
    }
}

impl RowColumn {
    /// Returns the next row's values in this column, and subtracts their bytes from `room`.
    fn next(&mut self, room: &mut usize) -> Result<Leaf, String> {
        let RowColumn { reader, descr, value_bytes, .. } = self;
        let mut row = OneRow { descr, value_bytes: *value_bytes, room };
        let column = descr.clone();
        match reader {
            ColumnReader::BoolColumnReader(r) => row.read(r, |_| 0, |value| Ok(value.into())),
            ColumnReader::Int32ColumnReader(r) => row.read(r, |_| 0, |value| Ok(int32(&column, value))),
            ColumnReader::Int64ColumnReader(r) => row.read(r, |_| 0, |value| Ok(int64(&column, value))),
            ColumnReader::FloatColumnReader(r) => row.read(r, |_| 0, |value| Ok(float(value.into()))),
            ColumnReader::DoubleColumnReader(r) => row.read(r, |_| 0, |value| Ok(float(value))),
            ColumnReader::ByteArrayColumnReader(r) => {
                row.read(r, ByteArray::len, |value| text(&column, value))
            }
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                unreachable!("no node reads them")
            }
        }
    }
}

struct OneRow<'a> {
    descr: &'a ColumnDescPtr,
    value_bytes: usize,
    room: &'a mut usize,
}

impl OneRow<'_> {
    fn read<T: DataType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        size: impl Fn(&T::T) -> usize,
        value: impl Fn(T::T) -> Result<Value, String>,
    ) -> Result<Leaf, String> {
        let (max_definition, max_repetition) = (self.descr.max_def_level(), self.descr.max_rep_level());
        let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
        let definitions = (max_definition > 0).then_some(&mut definition);
        let repetitions = (max_repetition > 0).then_some(&mut repetition);
        let (rows, _, levels) =
            reader.read_records(1, definitions, repetitions, &mut values).map_err(reason)?;
        if rows == 0 {
            return Err("a row group ends early".into());
        }
        let bytes = values.iter().map(size).sum::<usize>().saturating_add(levels * self.value_bytes);
        *self.room = self
            .room
            .checked_sub(bytes)
            .ok_or_else(|| format!("with all its columns it is longer than {} MiB", MAX_ROW >> 20))?;
        let values = values.into_iter().map(value).collect::<Result<Vec<Value>, String>>()?.into_iter();
        Ok(Leaf { values, definition, repetition, max_definition, count: levels, read: 0 })
    }
}

fn int32(column: &ColumnDescPtr, value: i32) -> Value {
    match column.converted_type() {
        ConvertedType::NONE | ConvertedType::INT_8 | ConvertedType::INT_16 | ConvertedType::INT_32 => {
            value.into()
        }
        ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 => (value as u32).into(),
        _ => Value::Null, // dates and times: no task has any
    }
}

fn int64(column: &ColumnDescPtr, value: i64) -> Value {
    match column.converted_type() {
        ConvertedType::NONE | ConvertedType::INT_64 => value.into(),
        ConvertedType::UINT_64 => (value as u64).into(),
        _ => Value::Null,
    }
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Converts bytes to text. Some writers do not declare bytes as text; undeclared bytes that are not UTF-8, such as
/// pictures, become null.
fn text(column: &ColumnDescPtr, value: ByteArray) -> Result<Value, String> {
    let text = std::str::from_utf8(value.data()).map(Value::from);
    match column.converted_type() {
        ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON => {
            text.map_err(|_| format!("`{}` is not UTF-8", column.path().string()))
        }
        ConvertedType::NONE => Ok(text.unwrap_or(Value::Null)),
        _ => Ok(Value::Null),
    }
}
