//! Reads .json, .jsonl, .csv, .tsv (these also .gz, .zst) and .parquet files as rows, each a JSON object with a key per
//! column. Data sets come in all of these formats, and their readers need not care which.

mod csv;
mod nested;
mod parquet;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::files::file_error::FileError;
use crate::files::json::{self, Mended};
use crate::files::json_records::{JsonPlace, JsonRecords};
pub(crate) use csv::CsvTable;

/// One row with its place in the file, for errors about it.
#[derive(Clone, Debug)]
pub struct TableRow {
    path: Arc<Path>,
    /// The line of the file, or the row of a parquet file, from 1.
    number: usize,
    columns: Map<String, Value>,
}

pub type Rows = Box<dyn Iterator<Item = Result<TableRow, FileError>>>;

/// Returns the rows of a file; its extension decides the format. The first row of a .csv or .tsv file names its
/// columns.
pub fn rows(path: &Path) -> Result<Rows, FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst"));
    match plain.unwrap_or(&name).rsplit_once('.') {
        Some((_, "csv")) => csv::rows(path, b',', None),
        Some((_, "tsv")) => csv::rows(path, b'\t', None),
        Some((_, "parquet")) if plain.is_none() => parquet::rows(path),
        _ => json_rows(path),
    }
}

/// Returns the rows of a .csv file without a header, whose columns have the names `columns`.
pub fn csv_rows(path: &Path, columns: &[&str]) -> Result<Rows, FileError> {
    csv::rows(path, b',', Some(columns))
}

fn json_rows(path: &Path) -> Result<Rows, FileError> {
    let shared: Arc<Path> = path.into();
    Ok(Box::new(JsonRecords::open(path)?.map(move |record| {
        let (place, text) = record?;
        json_row(&shared, place, &text).map(|(row, _)| row)
    })))
}

/// Parses a JSON text as a row, and returns it with the changes needed to read it.
pub fn json_row(path: &Arc<Path>, place: JsonPlace, text: &[u8]) -> Result<(TableRow, Mended), FileError> {
    match json::parse(text) {
        Ok((Value::Object(columns), mended)) => {
            Ok((TableRow { path: path.clone(), number: place.line, columns }, mended))
        }
        Ok(_) => Err(place.error(path, "not a JSON object".into())),
        Err(reason) => Err(place.error(path, reason)),
    }
}

impl TableRow {
    /// Returns an error about this row.
    pub fn bad(&self, reason: impl Into<String>) -> FileError {
        let (path, reason) = (self.path.to_path_buf(), reason.into());
        match path.extension().is_some_and(|extension| extension == "parquet") {
            true => FileError::Row { path, row: self.number, reason },
            false => FileError::Line { path, line: self.number, reason },
        }
    }

    pub fn columns(&self) -> &Map<String, Value> {
        &self.columns
    }

    /// Returns the value of a column, or None if it is absent or null.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.columns.get(column).filter(|value| !value.is_null())
    }

    pub fn value(&self, column: &str) -> Result<&Value, FileError> {
        self.get(column).ok_or_else(|| {
            let names: Vec<&str> = self.columns.keys().map(String::as_str).collect();
            self.bad(format!("no `{column}`, only {}", names.join(", ")))
        })
    }

    /// Returns a string, which may be blank: some choices of real data sets are.
    pub fn string(&self, column: &str) -> Result<&str, FileError> {
        let text = self.value(column)?.as_str();
        text.ok_or_else(|| self.bad(format!("`{column}` is not a string")))
    }

    /// Returns a string that is not blank.
    pub fn text(&self, column: &str) -> Result<&str, FileError> {
        let text = self.string(column)?;
        if text.trim().is_empty() { Err(self.bad(format!("`{column}` is empty"))) } else { Ok(text) }
    }

    /// Returns a list of strings.
    pub fn strings(&self, column: &str) -> Result<Vec<String>, FileError> {
        let strings = self.value(column)?.as_array().and_then(|list| {
            list.iter().map(|value| value.as_str().map(String::from)).collect::<Option<Vec<_>>>()
        });
        strings.ok_or_else(|| self.bad(format!("`{column}` is not a list of strings")))
    }

    /// Returns a whole number below `count`.
    pub fn index(&self, column: &str, count: usize) -> Result<usize, FileError> {
        let index = self.value(column)?.as_u64().and_then(|index| usize::try_from(index).ok());
        index
            .filter(|&index| index < count)
            .ok_or_else(|| self.bad(format!("`{column}` must be a whole number below {count}")))
    }

    /// Returns the struct in `column` as a row.
    pub fn inner(&self, column: &str) -> Result<TableRow, FileError> {
        match self.value(column)? {
            Value::Object(columns) => Ok(TableRow { columns: columns.clone(), ..self.clone() }),
            _ => Err(self.bad(format!("`{column}` is not a struct"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(name: &str, text: &[u8]) -> Result<Vec<TableRow>, FileError> {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(name);
        std::fs::write(&path, text).unwrap();
        rows(&path)?.collect()
    }

    #[test]
    fn jsonl_and_csv_give_the_same_rows() {
        let jsonl = r#"{"q": "一, \"two\"", "a": "x\ny"}"#;
        let csv = "q,a\r\n\"一, \"\"two\"\"\",\"x\ny\"\r\n";
        for rows in [read("a.jsonl", jsonl.as_bytes()), read("a.csv", csv.as_bytes())] {
            let rows = rows.unwrap();
            assert_eq!(rows.len(), 1);
            assert_eq!((rows[0].text("q").unwrap(), rows[0].text("a").unwrap()), ("一, \"two\"", "x\ny"));
        }
    }

    #[test]
    fn what_a_row_lacks_is_named_with_file_and_line() {
        let file = b"{\"a\": \" \", \"n\": 4, \"l\": [\"x\", 1], \"z\": null}\n[]\n{\n";
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bad.jsonl");
        std::fs::write(&path, file).unwrap();
        let found: Vec<_> = rows(&path).unwrap().collect();
        let row = found[0].as_ref().unwrap();
        let errors = [
            (row.text("q").map(drop), "bad.jsonl, line 1: no `q`, only a, n, l, z"),
            (row.text("z").map(drop), "no `z`"),
            (row.text("a").map(drop), "`a` is empty"),
            (row.text("n").map(drop), "`n` is not a string"),
            (row.strings("n").map(drop), "`n` is not a list of strings"),
            (row.strings("l").map(drop), "`l` is not a list of strings"),
            (row.index("n", 4).map(drop), "`n` must be a whole number below 4"),
            (row.inner("n").map(drop), "`n` is not a struct"),
        ];
        for (error, expected) in errors {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!((row.index("n", 5).unwrap(), row.value("l").unwrap()), (4, &json!(["x", 1])));
        let error = |i: usize| found[i].as_ref().unwrap_err().to_string();
        assert!(error(1).ends_with("bad.jsonl, line 2: not a JSON object"), "{}", error(1));
        assert!(error(2).contains("bad.jsonl, line 3: not JSON"), "{}", error(2));
        assert!(rows(&temp.path().join("none.jsonl")).is_err());
    }
}
