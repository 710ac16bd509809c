//! Counts what was left out of a file or read differently than written, and reports it in sentences.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Example;
use crate::files::file_error::FileError;
use crate::files::json::Mended;
use crate::files::json_records::JsonPlace;
use crate::files::lines::BadLines;

/// A file of which nothing is of use.
#[derive(Debug, thiserror::Error)]
#[error("{path} has nothing to learn from: {reason}")]
pub struct NothingToLearn {
    path: PathBuf,
    reason: String,
}

/// Places that a sentence names.
const NAMED: usize = 3;
/// The most different keys that are reported, so that a file of arbitrary keys does not fill the memory.
const MAX_KEYS: usize = 50;

/// The keys of one conversation that are not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unused(Vec<(String, bool)>);

impl Unused {
    /// Adds a key of the object `of` (empty for the conversation itself), and whether it is known.
    pub fn push(&mut self, of: &str, key: &str, known: bool) {
        let key: String = key.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.0.push((format!("`{key}`{of}"), known));
    }
}

/// One text of a file, read.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub example: Example,
    pub unused: Unused,
    pub mended: Mended,
}

/// Places where something happened: how many, and the first of them.
#[derive(Clone, Debug, Default)]
struct PlaceList {
    count: usize,
    first: Vec<String>,
}

impl PlaceList {
    fn push(&mut self, place: String) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(place);
        }
    }

    /// Returns the first places, with an ellipsis if there are more.
    fn listed(&self) -> String {
        let more = if self.count > self.first.len() { ", …" } else { "" };
        format!("{}{more}", self.first.join(", "))
    }
}

/// The counts of one file.
#[derive(Clone, Debug, Default)]
pub struct Told {
    read: usize,
    bad: PlaceList,
    unlearned: PlaceList,
    numbers: PlaceList,
    surrogates: PlaceList,
    weighed: usize,
    unused: BTreeMap<(String, bool), usize>,
    other_keys: usize,
}

impl Told {
    /// Counts one text and returns what was read from it; None if it is bad and bad ones are skipped.
    pub fn count<T>(
        &mut self,
        read: Result<T, FileError>,
        bad_lines: BadLines,
    ) -> Result<Option<T>, FileError> {
        self.read += 1;
        match read {
            Ok(read) => Ok(Some(read)),
            Err(FileError::Line { line, reason, .. }) if bad_lines == BadLines::Skip => {
                self.bad.push(format!("line {line} ({reason})"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Counts the unused parts of a text that is used.
    pub fn add(&mut self, place: JsonPlace, unused: Unused, mended: Mended) {
        for key in unused.0 {
            let full = self.unused.len() >= MAX_KEYS;
            match self.unused.get_mut(&key) {
                Some(count) => *count += 1,
                None if full => self.other_keys += 1,
                None => drop(self.unused.insert(key, 1)),
            }
        }
        if mended.numbers > 0 {
            self.numbers.push(place.to_string());
        }
        if mended.surrogates > 0 {
            self.surrogates.push(place.to_string());
        }
    }

    /// Counts a conversation like `count` and `add` together.
    pub fn take(
        &mut self,
        place: JsonPlace,
        parsed: Result<Parsed, FileError>,
        bad_lines: BadLines,
    ) -> Result<Option<Example>, FileError> {
        let Some(Parsed { example, unused, mended }) = self.count(parsed, bad_lines)? else {
            return Ok(None);
        };
        self.add(place, unused, mended);
        self.weighed += usize::from(example.weight != 1.0 || !example.message_weights.is_empty());
        Ok(Some(example))
    }

    /// Counts a conversation that is left out because its weights are 0.
    pub fn leave_out(&mut self, place: JsonPlace) {
        self.unlearned.push(place.to_string());
    }

    /// Returns the number of conversations with weights.
    pub fn weighed(&self) -> usize {
        self.weighed
    }

    /// An error if nothing of the file was of use.
    pub fn check(&self, path: &Path) -> Result<(), NothingToLearn> {
        let (bad, unlearned) = (&self.bad, &self.unlearned);
        let reason = match (bad.count, unlearned.count) {
            (0, 0) => return Ok(()),
            (a, b) if a + b < self.read => return Ok(()),
            (_, 0) => format!("all that is in it is bad, to begin with {}", bad.first[0]),
            _ => format!("the weights of its conversations are 0, to begin with {}", unlearned.first[0]),
        };
        Err(NothingToLearn { path: path.into(), reason })
    }

    /// Returns a sentence for each kind of thing to report.
    pub fn sentences(&self) -> Vec<String> {
        let all = self.read;
        let mut told = Vec::new();
        let mut tell = |places: &PlaceList, what: &str| {
            if places.count > 0 {
                told.push(format!("{} of {all} {what}: {}", places.count, places.listed()));
            }
        };
        tell(&self.bad, "conversations are skipped");
        tell(&self.unlearned, "conversations are left out because their weights are 0");
        tell(&self.surrogates, "conversations have half of a surrogate pair, read as U+FFFD");
        tell(&self.numbers, "conversations have NaN or Infinity, read as null");
        for (known, what) in [(true, "not used"), (false, "unknown and not used")] {
            let keys = self.unused.iter().filter(|((_, is), _)| *is == known);
            let mut keys: Vec<String> =
                keys.map(|((key, _), count)| format!("{key} ({})", times(*count))).collect();
            if !known && self.other_keys > 0 {
                keys.push(format!("other keys ({})", times(self.other_keys)));
            }
            if !keys.is_empty() {
                told.push(format!("{what}: {}", keys.join(", ")));
            }
        }
        told
    }
}

fn times(count: usize) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}
