//! Reads values separated by commas or tabs, as Python's `csv` module does: a quoted field may contain separators, line
//! ends and doubled quotes.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::Value;

use super::{Rows, TableRow};
use crate::files::encoding::Text;
use crate::files::file_error::{FileError, at};
use crate::files::lines::{MAX_LINE, unpack};

/// The maximum fields of a record: the end of each takes eight bytes, so a line of commas could fill the memory.
const MAX_FIELDS: usize = 1 << 16;

/// Returns the records of a file as rows. `columns` names their fields; if it is None, the first record does.
pub fn rows(path: &Path, separator: u8, columns: Option<&[&str]>) -> Result<Rows, FileError> {
    let file = std::fs::File::open(path).map_err(at(path))?;
    let text = Text::new(unpack(path, file)?, None).map_err(at(path))?;
    if let Some(encoding) = text.decoded_from {
        let reason = format!("it is {}, not UTF-8", encoding.name());
        return Err(FileError::BadFile { path: path.into(), reason });
    }
    let mut table = CsvTable::new(text.reader, separator);
    let path: Arc<Path> = path.into();
    let row = move |number| TableRow { path: path.clone(), number, columns: Default::default() };
    let columns = match columns {
        Some(columns) => columns.iter().map(|name| name.to_string()).collect(),
        None => table.header().map_err(|reason| row(table.line).bad(reason))?,
    };
    Ok(Box::new(std::iter::from_fn(move || {
        let values = match table.advance() {
            Ok(false) => return None,
            Ok(true) => table.check(columns.len()).and_then(|()| table.strings()),
            Err(reason) => Err(reason),
        };
        let row = row(table.line);
        Some(match values {
            Ok(values) => {
                let values = values.into_iter().map(Value::String);
                Ok(TableRow { columns: columns.iter().cloned().zip(values).collect(), ..row })
            }
            Err(reason) => Err(row.bad(reason)),
        })
    })))
}

/// A reader of a text's records that holds the fields of the last one. Errors are reasons in words.
pub struct CsvTable {
    text: Box<dyn BufRead + Send>,
    parser: Reader,
    /// The fields one after another, and where each ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
    /// The line on which the record begins, from 1; `next_line` is the line after it.
    pub line: usize,
    next_line: usize,
    ended: bool,
}

impl CsvTable {
    /// Reads `text`, which must not begin with a byte order mark.
    pub fn new(text: Box<dyn BufRead + Send>, separator: u8) -> CsvTable {
        let parser = ReaderBuilder::new().delimiter(separator).build();
        let (fields, ends) = (vec![0; 1 << 12], vec![0; 1 << 6]);
        CsvTable { text, parser, fields, ends, count: 0, line: 1, next_line: 1, ended: false }
    }

    /// Reads the first record and returns its fields; none if the text is empty.
    pub fn header(&mut self) -> Result<Vec<String>, String> {
        if self.advance()? { self.strings() } else { Ok(Vec::new()) }
    }

    /// Moves to the next record that is not blank. Returns false at the end, and after an error.
    pub fn advance(&mut self) -> Result<bool, String> {
        let read = loop {
            match if self.ended { Ok(false) } else { self.read() } {
                Ok(true) if self.count == 1 && self.field(0).trim_ascii().is_empty() => {}
                read => break read,
            }
        };
        self.ended = read != Ok(true);
        read
    }

    /// Returns an error if the record does not have `count` fields.
    pub fn check(&self, count: usize) -> Result<(), String> {
        match self.count == count {
            true => Ok(()),
            false => Err(format!("{} fields where {count} are due", self.count)),
        }
    }

    pub fn field(&self, i: usize) -> &[u8] {
        let from = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.fields[from..self.ends[i]]
    }

    pub fn strings(&self) -> Result<Vec<String>, String> {
        let string = |i| std::str::from_utf8(self.field(i)).map(String::from);
        (0..self.count).map(string).collect::<Result<_, _>>().map_err(|error| format!("not UTF-8 ({error})"))
    }

    fn read(&mut self) -> Result<bool, String> {
        self.skip_line_ends()?;
        self.line = self.next_line;
        let (mut length, mut count) = (0, 0);
        loop {
            let bytes = self.text.fill_buf().map_err(|error| error.to_string())?;
            let (result, read, written, ended) =
                self.parser.read_record(bytes, &mut self.fields[length..], &mut self.ends[count..]);
            self.next_line += line_ends(&bytes[..read]);
            self.text.consume(read);
            (length, count) = (length + written, count + ended);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if length as u64 >= MAX_LINE => {
                    return Err(format!("the record is longer than {} MiB", MAX_LINE >> 20));
                }
                ReadRecordResult::OutputFull => self.fields.resize(2 * length, 0),
                ReadRecordResult::OutputEndsFull if count >= MAX_FIELDS => {
                    return Err(format!("the record has more than {MAX_FIELDS} fields"));
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * count, 0),
                ReadRecordResult::Record => {
                    self.count = count;
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    /// Skips line ends. The parser would count them to the next record, whose line number would be wrong.
    fn skip_line_ends(&mut self) -> Result<(), String> {
        loop {
            let bytes = self.text.fill_buf().map_err(|error| error.to_string())?;
            let skipped = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if skipped == 0 {
                return Ok(());
            }
            self.next_line += line_ends(&bytes[..skipped]);
            self.text.consume(skipped);
        }
    }
}

fn line_ends(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor, Read};

    use proptest::prelude::*;

    use super::*;

    /// Returns the records with their lines; the text comes three bytes at a time.
    fn records(text: &str, separator: u8) -> Vec<(usize, Vec<String>)> {
        let text = BufReader::with_capacity(3, Cursor::new(text.trim_start_matches('\u{feff}').to_string()));
        let mut table = CsvTable::new(Box::new(text), separator);
        let next = || table.advance().unwrap().then(|| (table.line, table.strings().unwrap()));
        std::iter::from_fn(next).collect()
    }

    /// scripts/parity/odd_csv.py made the cases.
    #[test]
    fn odd_texts_are_read_as_python_reads_them() {
        #[derive(serde::Deserialize)]
        struct Case {
            separator: char,
            text: String,
            records: Vec<Vec<String>>,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../tests/fixtures/odd_csv.json")).unwrap();
        assert!(cases.len() > 90);
        for case in cases {
            let found: Vec<_> =
                records(&case.text, case.separator as u8).into_iter().map(|(_, fields)| fields).collect();
            assert_eq!(found, case.records, "{:?}", case.text);
        }
    }

    #[test]
    fn a_record_knows_the_line_where_it_begins() {
        let text = "a,b\r\n\r\n\n\"x\ny\",\"say \"\"hi\"\"\"\r\n,z\r\n \r\nend,\n";
        let lines: Vec<usize> = records(text, b',').into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 4, 6, 8]);
    }

    #[test]
    fn a_row_of_another_length_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("t.csv");
        std::fs::write(&path, "\u{feff}a,b\n1,2\n1\n3,4\n").unwrap();
        let found: Vec<_> = rows(&path, b',', None).unwrap().collect();
        assert_eq!(found[0].as_ref().unwrap().text("a").unwrap(), "1");
        let error = found[1].as_ref().unwrap_err().to_string();
        assert!(error.ends_with("t.csv, line 3: 1 fields where 2 are due"), "{error}");
        assert_eq!(found[2].as_ref().unwrap().text("b").unwrap(), "4");
        std::fs::write(&path, b"a\n\xff\n").unwrap();
        let error = rows(&path, b',', None).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("t.csv, line 2: not UTF-8"), "{error}");
    }

    #[test]
    fn a_record_without_end_is_refused_before_it_fills_the_memory() {
        for (byte, reason) in [(b'a', "longer than 64 MiB"), (b',', "more than 65536 fields")] {
            let endless = BufReader::new(std::io::repeat(byte).take(1 << 30));
            let mut table = CsvTable::new(Box::new(endless), b',');
            assert!(table.advance().unwrap_err().contains(reason));
            assert!(table.fields.capacity() <= MAX_LINE as usize && table.ends.capacity() <= MAX_FIELDS);
            assert_eq!(table.advance(), Ok(false));
        }
    }

    proptest! {
        #[test]
        fn quoting_and_reading_again_gives_the_fields(
            table in prop::collection::vec(prop::collection::vec("[a,\"\n人 ]{0,6}", 2..4), 0..5),
        ) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let line = |fields: &Vec<String>| fields.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
            let text: String = table.iter().map(line).collect();
            let read: Vec<Vec<String>> = records(&text, b',').into_iter().map(|(_, fields)| fields).collect();
            prop_assert_eq!(read, table);
        }
    }
}
