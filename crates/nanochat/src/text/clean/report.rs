//! The report of a cleaning: what was read, what was dropped and why, and what was kept.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::rules::Reason;
use crate::files::atomic_file;
use crate::files::file_error::{FileError, at};
use crate::text::dataset::Written;
use crate::text::ingest::{Oddities, PassedOver};

/// The name of the report in the folder of shards. It includes samples of dropped documents.
pub const REPORT_FILE: &str = "cleaned.json";

/// The counts of a cleaning: what was read, what was dropped and why, and what was kept.
#[derive(Debug, Default)]
pub struct Cleaned {
    pub files: usize,
    /// The number of documents read; `bytes` is their size.
    pub documents: usize,
    pub bytes: u64,
    pub passed: PassedOver,
    pub odd: Oddities,
    pub dropped: BTreeMap<Reason, Dropped>,
    /// The number of lines of symbols alone that were removed from documents.
    pub lines_dropped: usize,
    /// The documents and characters kept, by language.
    pub languages: BTreeMap<&'static str, [usize; 2]>,
    /// The number of documents judged before the memory for duplicates was full; later ones were only compared with
    /// these.
    pub full_after: Option<usize>,
    pub written: Written,
}

/// The documents dropped for one reason.
#[derive(Debug, Default)]
pub struct Dropped {
    pub documents: usize,
    pub bytes: u64,
    /// The beginnings of some of them.
    pub samples: Vec<String>,
}

impl Cleaned {
    /// Writes the report into the unfinished folder, so that the finished one always has it.
    pub(super) fn write(&self, folder: &Path) -> Result<(), FileError> {
        let path = folder.join(REPORT_FILE);
        let text = serde_json::to_string_pretty(&self.as_json()).expect("strings and numbers are valid JSON");
        atomic_file::write(&path, text.as_bytes()).map_err(at(&path))
    }

    fn as_json(&self) -> Value {
        let dropped = self.dropped.iter().map(|(reason, dropped)| {
            json!({
                "reason": reason.name(),
                "documents": dropped.documents,
                "bytes": dropped.bytes,
                "samples": dropped.samples,
            })
        });
        let kept = self.languages.iter();
        let kept = kept.map(
            |(language, [n, chars])| json!({ "language": language, "documents": n, "characters": chars }),
        );
        json!({
            "files": self.files,
            "documents": self.documents,
            "bytes": self.bytes,
            "passed_over": self.passed.sentences(),
            "odd": self.odd.sentences(),
            "dropped": dropped.collect::<Vec<_>>(),
            "lines_dropped": self.lines_dropped,
            "kept": kept.collect::<Vec<_>>(),
            "duplicates_full_after": self.full_after,
        })
    }
}
