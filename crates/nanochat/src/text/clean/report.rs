//! The report of a cleaning: what came in, what went and why, what stayed.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::rules::Reason;
use crate::files::atomic_file;
use crate::files::file_error::{FileError, at};
use crate::text::dataset::Written;
use crate::text::ingest::{Oddities, PassedOver};

/// Lies in the folder of shards, samples of dropped documents included.
pub const REPORT_FILE: &str = "cleaned.json";

/// What came in, what went and why, what stayed.
#[derive(Debug, Default)]
pub struct Cleaned {
    pub files: usize,
    /// Read: documents and bytes.
    pub documents: usize,
    pub bytes: u64,
    pub passed: PassedOver,
    pub odd: Oddities,
    pub dropped: BTreeMap<Reason, Dropped>,
    /// Lines of symbols alone, removed from documents.
    pub lines_dropped: usize,
    /// Kept: documents and characters by language.
    pub languages: BTreeMap<&'static str, [usize; 2]>,
    /// Documents judged before the memory for duplicates was full; later ones were only compared with these.
    pub full_after: Option<usize>,
    pub written: Written,
}

/// The documents that one reason cost.
#[derive(Debug, Default)]
pub struct Dropped {
    pub documents: usize,
    pub bytes: u64,
    /// The beginnings of some.
    pub samples: Vec<String>,
}

impl Cleaned {
    /// Into the folder that is being made: it takes its name with the report in it.
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
