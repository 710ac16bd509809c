//! Reads the conversations of a file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::told::{NothingToLearn, Parsed, Told, Unused};
use super::{Conversation, Example, forms};
use crate::files::file_error::FileError;
use crate::files::json;
use crate::files::json_records::{JsonPlace, JsonRecords};
use crate::files::lines::BadLines;

/// A valid conversation in one of the [forms](super::forms); an error says what is wrong with it.
pub(crate) fn parse(text: &[u8]) -> Result<Parsed, String> {
    let (value, mended) = json::parse(text)?;
    let mut unused = Unused::default();
    let example = forms::example(value, mended.numbers > 0, &mut unused)?;
    Ok(Parsed { example, unused, mended })
}

/// Reads a parsed value like [`parse`], returning only the messages.
pub(crate) fn from_json(value: Value) -> Result<Conversation, String> {
    Ok(forms::example(value, false, &mut Unused::default())?.conversation)
}

/// Why the conversations of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExamplesError {
    #[error(transparent)]
    NothingToLearn(#[from] NothingToLearn),
    #[error(transparent)]
    File(#[from] FileError),
}

/// The valid conversations of a .json or .jsonl file (also .gz, .zst), each with its place. An error names the file and
/// the line.
pub struct Examples {
    path: PathBuf,
    records: JsonRecords,
    bad_lines: BadLines,
    told: Told,
    ended: bool,
}

impl Examples {
    pub fn open(path: &Path, bad_lines: BadLines) -> Result<Examples, FileError> {
        let records = JsonRecords::open(path)?;
        Ok(Examples { path: path.into(), records, bad_lines, told: Told::default(), ended: false })
    }

    /// Returns sentences about what was ignored or repaired so far.
    pub fn sentences(&self) -> Vec<String> {
        self.told.sentences()
    }
}

impl Iterator for Examples {
    type Item = Result<(JsonPlace, Example), ExamplesError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let Some(record) = self.records.next() else {
                self.ended = true;
                return self.told.check(&self.path).err().map(|error| Err(error.into()));
            };
            let read = record.and_then(|(place, text)| {
                let parsed = parse(&text).map_err(|reason| place.error(&self.path, reason));
                let example = self.told.take(place, parsed, self.bad_lines)?;
                Ok(example.map(|example| (place, example)))
            });
            if let Some(read) = read.transpose() {
                return Some(read.map_err(ExamplesError::from));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
