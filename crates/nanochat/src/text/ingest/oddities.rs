//! Records what was odd in the input files and how it was handled: a count and the first places of each kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files::encoding::{Encoding, Malformed};
use crate::terminal::counted::counted;
use crate::text::dataset::DatasetError;

/// The number of places kept of each kind: enough to look at, few enough to print.
const PLACES: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// A document that is not UTF-8, left out.
    NotUtf8,
    /// A line that cannot be used, left out.
    BadLine,
    /// A line with `NaN` or `Infinity`, read as null.
    NotANumber,
    /// A line with half of a surrogate pair, read as U+FFFD.
    HalfPair,
    /// Bytes that mean nothing in the encoding of their file, read as U+FFFD.
    Malformed,
}

/// The oddities of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub count: usize,
    /// The first files, each with its first lines or rows (empty if the whole file is meant).
    pub places: Vec<(PathBuf, Vec<usize>)>,
    /// A description of the first.
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    pub found: BTreeMap<Oddity, Found>,
    /// The number of decoded files, by encoding.
    pub decoded: BTreeMap<&'static str, usize>,
}

impl Oddities {
    pub(super) fn add(&mut self, oddity: Oddity, path: &Path, line: usize, reason: &str) {
        let mut one = Found { reason: reason.into(), ..Found::default() };
        one.add(path, Some(line));
        self.merge(oddity, one);
    }

    pub(super) fn merge(&mut self, oddity: Oddity, more: Found) {
        let found = self.found.entry(oddity).or_default();
        if found.count == 0 {
            *found = more;
            return;
        }
        found.count += more.count;
        for (path, lines) in more.places {
            let lines = if lines.is_empty() { vec![None] } else { lines.into_iter().map(Some).collect() };
            lines.into_iter().for_each(|line| found.keep(&path, line));
        }
    }

    /// Records that a file was decoded.
    pub(super) fn decoded(&mut self, path: &Path, encoding: Encoding, malformed: &Malformed) {
        *self.decoded.entry(encoding.name()).or_default() += 1;
        if malformed.sequences > 0 {
            let places = vec![(path.into(), malformed.lines.clone())];
            let reason = format!("in {}", encoding.name());
            self.merge(Oddity::Malformed, Found { count: malformed.sequences, places, reason });
        }
    }

    pub fn count(&self, oddity: Oddity) -> usize {
        self.found.get(&oddity).map_or(0, |found| found.count)
    }

    /// Returns one sentence for each kind.
    pub fn sentences(&self) -> Vec<String> {
        let decoded = self.decoded.iter().map(|(name, n)| format!("read {} as {name}", counted(*n, "file")));
        decoded.chain(self.found.iter().map(|(oddity, found)| found.sentence(*oddity))).collect()
    }

    /// Adds to an error about too few documents what was left out; other errors stay as they are.
    pub(crate) fn explain(&self, error: DatasetError) -> DatasetError {
        match error {
            DatasetError::TooFewDocuments { train, val, .. } => {
                let left_out: String =
                    self.sentences().into_iter().map(|sentence| format!("; {sentence}")).collect();
                DatasetError::TooFewDocuments { train, val, left_out }
            }
            error => error,
        }
    }
}

impl Found {
    /// Counts an oddity at a line or row of `path`, or in the whole file.
    pub(super) fn add(&mut self, path: &Path, line: Option<usize>) {
        self.count += 1;
        self.keep(path, line);
    }

    fn keep(&mut self, path: &Path, line: Option<usize>) {
        if self.kept() == PLACES {
            return;
        }
        match self.places.last_mut() {
            Some((last, lines)) if last == path => lines.extend(line),
            _ => self.places.push((path.into(), line.into_iter().collect())),
        }
    }

    fn kept(&self) -> usize {
        self.places.iter().map(|(_, lines)| lines.len().max(1)).sum()
    }

    fn sentence(&self, oddity: Oddity) -> String {
        let lines = |what: &str| format!("{} had {what}", counted(self.count, "line"));
        let what = match oddity {
            Oddity::NotUtf8 if self.count == 1 => "left out 1 document that is not UTF-8".into(),
            Oddity::NotUtf8 => format!("left out {} documents that are not UTF-8", self.count),
            Oddity::BadLine => format!("left out {}", counted(self.count, "bad line")),
            Oddity::NotANumber => lines("NaN or Infinity, read as null"),
            Oddity::HalfPair => lines("half of a surrogate pair, read as U+FFFD"),
            Oddity::Malformed => format!("read {} as U+FFFD", counted(self.count, "malformed sequence")),
        };
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
        format!("{what}: {}{reason}", self.places())
    }

    /// Returns the places in words: `a.jsonl, lines 2, 5; b.jsonl, line 1; …`
    fn places(&self) -> String {
        let of_file = |(path, lines): &(PathBuf, Vec<usize>)| {
            let numbers: Vec<String> = lines.iter().map(usize::to_string).collect();
            match &numbers[..] {
                [] => path.display().to_string(),
                [one] => format!("{}, {} {one}", path.display(), unit(path)),
                more => format!("{}, {}s {}", path.display(), unit(path), more.join(", ")),
            }
        };
        let mut places: Vec<String> = self.places.iter().map(of_file).collect();
        if self.count > self.kept() {
            places.push("…".into());
        }
        places.join("; ")
    }

    /// Returns the first line such as `line 3`; None if the whole file is meant.
    pub(super) fn first_line(&self) -> Option<String> {
        let (path, lines) = self.places.first()?;
        Some(format!("{} {}", unit(path), lines.first()?))
    }
}

fn unit(path: &Path) -> &'static str {
    if path.extension().is_some_and(|extension| extension == "parquet") { "row" } else { "line" }
}
