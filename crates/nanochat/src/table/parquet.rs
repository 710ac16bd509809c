//! The rows of a parquet file, lists and structs included.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Number, Value};

use super::{Row, Rows};
use crate::dataset::{Bounded, DataError, guarded, reason};

pub fn rows(path: &Path) -> Result<Rows, DataError> {
    let shared: Arc<Path> = path.into();
    let bad = |reason: String| DataError::BadFile { path: path.into(), reason };
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    let records = guarded(|| {
        let reader: Box<dyn FileReader> =
            Box::new(SerializedFileReader::new(Bounded::new(file)?).map_err(reason)?);
        RowIter::from_file_into(reader).project(None).map_err(reason)
    });
    let mut records = Some(records.map_err(bad)?);
    let mut number = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        number += 1;
        let row = Row { path: shared.clone(), number, columns: Map::new() };
        let reader = records.as_mut()?;
        match guarded(|| reader.next().transpose().map_err(reason)) {
            Ok(record) => Some(Ok(Row { columns: object(&record?), ..row })),
            Err(reason) => {
                records = None; // nothing sensible follows
                Some(Err(row.bad(reason)))
            }
        }
    })))
}

fn object(record: &Record) -> Map<String, Value> {
    record.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// Fields of other types, such as dates, are null: no task has any.
fn value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Number::from_f64(f64::from(*value)).map_or(Value::Null, Value::Number),
        Field::Double(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
        Field::Str(text) => Value::String(text.clone()),
        Field::Group(record) => Value::Object(object(record)),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        _ => Value::Null,
    }
}
