//! Reads the documents of one file.

use std::fs::File;
use std::io::{BufRead, Read};

use indicatif::ProgressBar;
use serde_json::Value;

use super::field::text_of;
use super::oddities::Found;
use super::{FileKind, InputFile, Oddities, Oddity, ReadOptions};
use crate::files::encoding::{Encoding, Text};
use crate::files::file_error::{FileError, at};
use crate::files::json::{self, Mended};
use crate::files::json_records::JsonRecords;
use crate::files::lines::{BadLines, Lines, MAX_LINE, unpack};
use crate::files::table::CsvTable;
use crate::text::dataset::{CHUNK_ROWS, ParquetTexts};

/// The bytes of non-UTF-8 documents from which the encoding is guessed if the file begins with ASCII.
const SAMPLE: usize = 4 << 10;

/// Passes each document of `file` to `take`; an error of `take` ends the reading. `odd` counts what could not be read
/// as it is, and `options` say whether that ends the reading.
pub fn documents(
    file: &InputFile,
    options: &ReadOptions,
    progress: &ProgressBar,
    odd: &mut Oddities,
    take: &mut impl FnMut(&str) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let foreign = Found::default();
    let mut reading = Reading { file, options, odd, take, documents: 0, foreign, sample: Vec::new() };
    let path = &file.path;
    if file.kind == FileKind::Parquet {
        reading.parquet()?;
        progress.inc(file.len());
        return reading.end(None);
    }
    let packed = unpack(path, progress.wrap_read(File::open(path).map_err(at(path))?))?;
    let text = Text::new(packed, options.encoding).map_err(at(path))?;
    if text.looks_like.is_some_and(Encoding::is_utf16) {
        reading.foreign(None, &[]); // its lines would be cut inside characters
        return reading.end(text.looks_like);
    }
    reading.text(text.reader)?;
    if let Some(encoding) = text.decoded_from {
        let malformed = text.malformed.lock().expect("no code panics while it holds this lock");
        reading.odd.decoded(path, encoding, &malformed);
    }
    reading.end(text.looks_like)
}

struct Reading<'a, T> {
    file: &'a InputFile,
    options: &'a ReadOptions,
    odd: &'a mut Oddities,
    take: &'a mut T,
    documents: usize,
    /// The documents that are not UTF-8; `sample` holds the beginning of these.
    foreign: Found,
    sample: Vec<u8>,
}

impl<T: FnMut(&str) -> Result<(), FileError>> Reading<'_, T> {
    fn text(&mut self, mut text: Box<dyn BufRead + Send>) -> Result<(), FileError> {
        let InputFile { path, kind } = self.file;
        match kind {
            FileKind::Text if self.options.split_lines => {
                for line in Lines::new(path, text) {
                    let (number, bytes) = line?;
                    self.document(Some(number), &bytes)?;
                }
            }
            FileKind::Text => {
                let mut bytes = Vec::new();
                text.by_ref().take(MAX_LINE + 1).read_to_end(&mut bytes).map_err(at(path))?;
                if bytes.len() as u64 > MAX_LINE {
                    let limit = MAX_LINE >> 20;
                    let reason = format!("as one document it is over {limit} MiB; use --split-lines");
                    return Err(FileError::BadFile { path: path.clone(), reason });
                }
                self.document(None, &bytes)?;
            }
            FileKind::Json => {
                for record in JsonRecords::new(path, text) {
                    let (place, bytes) = record?;
                    match json::parse(&bytes) {
                        Ok((value, mended)) => self.object(place.line, &value, mended)?,
                        Err(_) if std::str::from_utf8(&bytes).is_err() => {
                            self.foreign(Some(place.line), &bytes);
                        }
                        Err(reason) => self.bad(place.line, &reason)?,
                    }
                }
            }
            FileKind::Csv => self.table(CsvTable::new(text, b','))?,
            FileKind::Tsv => self.table(CsvTable::new(text, b'\t'))?,
            FileKind::Parquet => unreachable!("parquet is no text"),
        }
        Ok(())
    }

    fn object(&mut self, line: usize, value: &Value, mended: Mended) -> Result<(), FileError> {
        let text = match text_of(value, &self.options.field) {
            Ok(text) => text,
            Err(reason) => return self.bad(line, &reason),
        };
        for (oddity, n) in [(Oddity::NotANumber, mended.numbers), (Oddity::HalfPair, mended.surrogates)] {
            if n > 0 {
                self.odd.add(oddity, &self.file.path, line, "");
            }
        }
        self.documents += 1;
        (self.take)(text)
    }

    fn table(&mut self, mut table: CsvTable) -> Result<(), FileError> {
        let (InputFile { path, .. }, ReadOptions { field, .. }) = (self.file, self.options);
        let error = |line, reason| FileError::Line { path: path.clone(), line, reason };
        if !table.advance().map_err(|reason| error(table.line, reason))? {
            return Ok(());
        }
        let Ok(names) = table.strings() else {
            self.foreign(Some(table.line), &[]);
            return Ok(());
        };
        let Some(column) = names.iter().position(|name| name == field) else {
            let reason = format!("no column `{field}`; choose one with --field: {}", names.join(", "));
            return Err(error(table.line, reason));
        };
        while table.advance().map_err(|reason| error(table.line, reason))? {
            match table.check(names.len()) {
                Ok(()) => self.document(Some(table.line), table.field(column))?,
                Err(reason) => self.bad(table.line, &reason)?,
            }
        }
        Ok(())
    }

    fn parquet(&mut self) -> Result<(), FileError> {
        let InputFile { path, .. } = self.file;
        let bad = |reason: String| FileError::BadFile { path: path.clone(), reason };
        let texts = ParquetTexts::open(path, &self.options.field).map_err(bad)?;
        let mut row = 0;
        for row_group in 0..texts.num_row_groups() {
            let mut rows = texts.rows(row_group, 0).map_err(bad)?;
            loop {
                let values = rows.next_rows(CHUNK_ROWS).map_err(bad)?;
                if values.is_empty() {
                    break;
                }
                for value in values {
                    row += 1;
                    self.document(Some(row), value.as_deref().unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }

    fn document(&mut self, line: Option<usize>, bytes: &[u8]) -> Result<(), FileError> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            self.foreign(line, bytes);
            return Ok(());
        };
        self.documents += 1;
        (self.take)(text)
    }

    /// Records a document that is not UTF-8.
    fn foreign(&mut self, line: Option<usize>, bytes: &[u8]) {
        self.documents += 1;
        self.foreign.add(&self.file.path, line);
        self.sample.extend(&bytes[..bytes.len().min(SAMPLE - self.sample.len())]);
    }

    fn bad(&mut self, line: usize, reason: &str) -> Result<(), FileError> {
        let InputFile { path, .. } = self.file;
        match self.options.bad_lines {
            BadLines::Skip => {
                self.odd.add(Oddity::BadLine, path, line, reason);
                Ok(())
            }
            BadLines::Fail => {
                let reason = format!("{reason}; --bad-lines skip leaves such lines out");
                Err(FileError::Line { path: path.clone(), line, reason })
            }
        }
    }

    /// Reports the documents that are not UTF-8 at the end of the file, when their number is known.
    fn end(mut self, looks_like: Option<Encoding>) -> Result<(), FileError> {
        if self.foreign.count == 0 {
            return Ok(());
        }
        let hint = match looks_like.or_else(|| Encoding::guess(&self.sample)) {
            _ if self.file.kind == FileKind::Parquet => String::new(),
            Some(encoding) => {
                let name = encoding.name();
                format!("it looks like {name}, which --encoding {} reads", name.to_lowercase())
            }
            None => "--encoding NAME reads other encodings, such as gbk".into(),
        };
        if self.options.bad_lines == BadLines::Skip {
            self.foreign.reason = hint;
            self.odd.merge(Oddity::NotUtf8, self.foreign);
            return Ok(());
        }
        let what = match self.foreign.first_line() {
            Some(line) => match (self.foreign.count, self.documents) {
                (1, 1) => format!("its only document, at {line}, is not UTF-8"),
                (1, all) => format!("1 of {all} documents is not UTF-8, at {line}"),
                (count, all) => format!("{count} of {all} documents are not UTF-8, the first at {line}"),
            },
            None => "it is not UTF-8".into(),
        };
        let hint = if hint.is_empty() { hint } else { format!("; {hint}") };
        let reason = format!("{what}{hint}; --bad-lines skip leaves such documents out");
        Err(FileError::BadFile { path: self.file.path.clone(), reason })
    }
}
