//! Comma-separated values as Python's `csv` module reads them: a field in quotes may hold commas, line ends and
//! doubled quotes.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Row, Rows};
use crate::dataset::{DataError, at};
use crate::lines::{MAX_LINE, unpack};

/// The records of a file as rows. `columns` names them; without, the first record does.
pub fn rows(path: &Path, columns: Option<&[&str]>) -> Result<Rows, DataError> {
    let file = std::fs::File::open(path).map_err(at(path))?;
    let mut text = String::new();
    unpack(path, file)?.take(MAX_LINE + 1).read_to_string(&mut text).map_err(at(path))?;
    if text.len() as u64 > MAX_LINE {
        let reason = format!("the file is longer than {} MiB", MAX_LINE >> 20);
        return Err(DataError::BadFile { path: path.into(), reason });
    }
    let mut records = Records { rest: text.trim_start_matches('\u{feff}'), line: 1 };
    let columns: Vec<String> = match columns {
        Some(columns) => columns.iter().map(|name| name.to_string()).collect(),
        None => records.next().map(|(_, header)| header).unwrap_or_default(),
    };
    let path: Arc<Path> = path.into();
    let row = |(number, fields): (usize, Vec<String>)| {
        let row = Row { path: path.clone(), number, columns: Map::new() };
        if fields.len() != columns.len() {
            return Err(row.bad(format!("{} fields where {} are due", fields.len(), columns.len())));
        }
        let columns = columns.iter().cloned().zip(fields.into_iter().map(Value::String)).collect();
        Ok(Row { columns, ..row })
    };
    Ok(Box::new(records.map(row).collect::<Vec<_>>().into_iter()))
}

/// What is left of a file, and the number of its first line. A record without any text is left out.
struct Records<'a> {
    rest: &'a str,
    line: usize,
}

impl Iterator for Records<'_> {
    type Item = (usize, Vec<String>);

    fn next(&mut self) -> Option<(usize, Vec<String>)> {
        while !self.rest.is_empty() {
            let (line, mut fields) = (self.line, Vec::new());
            loop {
                let (field, more) = self.field();
                fields.push(field);
                if !more {
                    break;
                }
            }
            if fields.len() > 1 || !fields[0].trim().is_empty() {
                return Some((line, fields));
            }
        }
        None
    }
}

impl Records<'_> {
    /// The next field, and whether its record goes on.
    fn field(&mut self) -> (String, bool) {
        let mut field = String::new();
        if let Some(quoted) = self.rest.strip_prefix('"') {
            self.rest = quoted;
            loop {
                let end = self.rest.find('"').unwrap_or(self.rest.len());
                field += self.take(end);
                self.take(1);
                if !self.rest.starts_with('"') {
                    break;
                }
                field.push('"');
                self.take(1);
            }
        }
        // What follows a closing quote belongs to the field too.
        let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
        field += self.take(end);
        let more = self.take(1) == ",";
        if !more && field.ends_with('\r') {
            field.pop();
        }
        (field, more)
    }

    /// The next up to `len` bytes.
    fn take(&mut self, len: usize) -> &str {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(text: &str) -> Vec<(usize, Vec<String>)> {
        Records { rest: text, line: 1 }.collect()
    }

    #[test]
    fn fields_are_pythons() {
        let text = "a,b\r\n\n\"x\ny\",\"say \"\"hi\"\"\"\n,\"q\"z\nit\"s,\"open\nend";
        let expected: [(usize, [&str; 2]); 4] =
            [(1, ["a", "b"]), (3, ["x\ny", "say \"hi\""]), (5, ["", "qz"]), (6, ["it\"s", "open\nend"])];
        let expected = expected.map(|(line, fields)| (line, fields.map(String::from).to_vec()));
        assert_eq!(records(text), expected);
    }

    #[test]
    fn a_row_of_another_length_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("t.csv");
        std::fs::write(&path, "\u{feff}a,b\n1,2\n1\n").unwrap();
        let found: Vec<_> = rows(&path, None).unwrap().collect();
        assert_eq!(found[0].as_ref().unwrap().text("a").unwrap(), "1");
        let error = found[1].as_ref().unwrap_err().to_string();
        assert!(error.ends_with("t.csv, line 3: 1 fields where 2 are due"), "{error}");
        std::fs::write(&path, b"a\n\xff\n").unwrap();
        assert!(rows(&path, None).err().unwrap().to_string().contains("t.csv"));
    }

    proptest! {
        #[test]
        fn quoting_and_reading_again_gives_the_fields(
            table in prop::collection::vec(prop::collection::vec("[a,\"\n人 ]{0,6}", 2..4), 0..5),
        ) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let line = |fields: &Vec<String>| fields.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
            let text: String = table.iter().map(line).collect();
            let read: Vec<Vec<String>> = records(&text).into_iter().map(|(_, fields)| fields).collect();
            prop_assert_eq!(read, table);
        }

        #[test]
        fn hostile_text_never_panics(text in "[a,\"\r\n人]{0,60}") {
            records(&text);
        }
    }
}
