//! Turns text from any source into a training corpus: normalizes it, applies quality rules, selects languages and
//! removes duplicates.
//!
//! One thread reads batches, all cores normalize and judge them, and the calling thread alone decides about duplicates,
//! in input order, so that the result does not depend on the number of threads. Memory holds three batches, the row
//! group being written, and the keys of the documents seen ([`near::Seen`]).

mod near;
mod normalize;
mod report;
mod rules;
mod words;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use ferrous_opencc::{OpenCC, config::BuiltinConfig};
use indicatif::ProgressBar;
use nanochat_tensor::Rng;
use rayon::prelude::*;

use crate::files::file_error::FileError;
use crate::text::dataset::{DatasetError, ShardWriter, Split};
use crate::text::ingest::{FileKind, IngestError, InputFile, Oddities, ReadOptions, documents, input_files};
use crate::text::language::{Detected, detect};
use near::{SeenDocuments, Signature, Verdict, signature};
pub use normalize::Width;
use normalize::normalize;
pub use report::{Cleaned, Dropped, REPORT_FILE};
pub use rules::Reason;
use rules::{Limits, Scratch, check, damaged};
use words::split;

/// The bytes of one batch: enough to keep all cores busy, small beside everything else.
const BATCH_BYTES: usize = 8 << 20;
/// The number of dropped documents kept as samples for each reason, chosen uniformly, and the characters kept of each.
const SAMPLES: usize = 5;
const SAMPLE_CHARS: usize = 300;

/// Options that say which documents are kept, and in which form.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Only every n-th file, starting at the i-th (from 0): one share of the work for each of n machines
    #[arg(long, value_name = "i/n", value_parser = shard)]
    pub shard: Option<(usize, usize)>,
    /// Keep documents in these languages only, such as zh,en
    #[arg(long = "lang", value_name = "CODES", value_delimiter = ',')]
    pub languages: Vec<String>,
    /// Drop a document when less than this share of its letters is in the script of its language
    #[arg(long, default_value_t = 0.3, value_parser = crate::terminal::flag_values::share)]
    pub min_language_share: f32,
    /// Full-width forms: half converts all to ASCII (，！ too), letters only letters and digits
    #[arg(long, value_enum, default_value_t)]
    pub width: Width,
    /// Treatment of traditional Chinese characters
    #[arg(long, value_enum, default_value_t)]
    pub script: Script,
    /// Keep documents of any quality: no rules of length, symbols, repetition
    #[arg(long)]
    pub no_rules: bool,
    /// Minimum words in a document; a Chinese character counts as a word
    #[arg(long, value_parser = crate::terminal::flag_values::amount, default_value_t = 50)]
    pub min_words: usize,
    /// Maximum words in a document
    #[arg(long, value_parser = crate::terminal::flag_values::amount, default_value_t = 100_000)]
    pub max_words: usize,
    /// Duplicates to drop, all but the first
    #[arg(long, value_enum, default_value_t)]
    pub dedup: Dedup,
    /// Memory for finding duplicates, in MiB; about 200 bytes a document
    #[arg(long, value_parser = crate::terminal::flag_values::amount, default_value_t = 2_048)]
    pub dedup_memory: usize,
    /// Keep the last parquet file of each folder as validation (otherwise --val-share applies)
    #[arg(long)]
    pub keep_validation: bool,
    /// Share of the documents for validation, taken at even distances; at least one document
    #[arg(long, default_value_t = 0.01, value_parser = crate::text::ingest::share)]
    pub val_share: f64,
    /// Characters in a shard
    #[arg(long, value_parser = crate::terminal::flag_values::large::<usize>, default_value_t = crate::text::dataset::CHARS_PER_SHARD)]
    pub chars_per_shard: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Script {
    /// Keep them
    #[default]
    Keep,
    /// Convert them to simplified ones
    Simplified,
    /// Write the document in both forms if they differ
    Both,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Dedup {
    /// Equal and nearly equal documents
    #[default]
    Near,
    /// Equal documents, after normalisation
    Exact,
    None,
}

/// Why a corpus could not be cleaned.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    #[error("--shard splits files, and there are only {found} files for {shards} shares")]
    FewFiles { found: usize, shards: usize },
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Cleans the documents of `paths` (files, or folders with their subfolders) into the new folder `out` of shards and
/// [`REPORT_FILE`]. Progress counts bytes of files.
pub fn clean(
    paths: &[PathBuf],
    out: &Path,
    options: &CleanOptions,
    progress: &ProgressBar,
) -> Result<Cleaned, CleanError> {
    let (files, passed) = input_files(paths)?;
    let files = files_of_shard(files, options)?;
    progress.set_length(files.iter().map(|(file, _)| file.len()).sum());
    let simplify = match options.script {
        Script::Keep => None,
        _ => Some(OpenCC::from_config(BuiltinConfig::T2s).expect("its dictionaries are part of the program")),
    };
    let mut sink = Sink {
        writer: ShardWriter::create(out, options.chars_per_shard)?,
        seen: SeenDocuments::within(options.dedup_memory << 20),
        report: Cleaned { files: files.len(), passed, ..Cleaned::default() },
        val_every: (1.0 / options.val_share).round() as usize,
        keep_validation: options.keep_validation,
        sampling: Rng::new(&[0]),
    };
    let (send, batches) = sync_channel(1);
    let odd = std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(&files, options, progress, &send));
        for batch in batches {
            let (split, documents): (Split, Vec<String>) = batch?;
            let judged: Vec<Judged> = documents
                .into_par_iter()
                .map_init(Worker::default, |worker, text| worker.judge(&text, options, simplify.as_ref()))
                .collect();
            for document in judged {
                sink.take(split, document)?;
            }
        }
        Ok::<_, FileError>(reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let report = Cleaned { odd, ..sink.report };
    report.write(sink.writer.path())?;
    let written = sink.writer.finish().map_err(|error| report.odd.explain(error))?;
    Ok(Cleaned { written, ..report })
}

/// Returns the files of this machine's share, each with the split of its documents.
fn files_of_shard(
    files: Vec<InputFile>,
    options: &CleanOptions,
) -> Result<Vec<(InputFile, Split)>, CleanError> {
    let next = files.iter().skip(1).map(|file| Some(file.path.parent())).chain([None]);
    let last: Vec<bool> =
        files.iter().zip(next).map(|(file, next)| Some(file.path.parent()) != next).collect();
    let split = |(file, last): (InputFile, bool)| match options.keep_validation
        && last
        && file.kind == FileKind::Parquet
    {
        true => (file, Split::Val),
        false => (file, Split::Train),
    };
    let found = files.len();
    let (i, n) = options.shard.unwrap_or((0, 1));
    if n > found {
        return Err(CleanError::FewFiles { found, shards: n });
    }
    Ok(files.into_iter().zip(last).map(split).skip(i).step_by(n).collect())
}

type Batch = Result<(Split, Vec<String>), FileError>;

/// Sends the documents of all files in batches; if reading fails, the error is sent last. Returns the oddities found in
/// them.
fn read(
    files: &[(InputFile, Split)],
    options: &CleanOptions,
    progress: &ProgressBar,
    send: &SyncSender<Batch>,
) -> Oddities {
    let mut odd = Oddities::default();
    for (file, split) in files {
        let (mut batch, mut bytes, mut gone) = (Vec::new(), 0, false);
        let mut take = |document: &str| {
            bytes += document.len();
            batch.push(document.to_string());
            if bytes >= BATCH_BYTES && !gone {
                bytes = 0;
                gone = send.send(Ok((*split, std::mem::take(&mut batch)))).is_err();
            }
            Ok(())
        };
        let result = documents(file, &options.read, progress, &mut odd, &mut take);
        if send.send(Ok((*split, batch))).is_err() {
            break; // the receiver is gone: writing failed
        }
        if let Err(error) = result {
            let _ = send.send(Err(error));
            break;
        }
    }
    odd
}

/// The result of checking one document without the others.
struct Judged {
    bytes: usize,
    lines_dropped: usize,
    outcome: Result<Vec<Kept>, (Reason, String)>,
}

struct Kept {
    text: String,
    language: &'static str,
    signature: Option<Signature>,
}

/// One core's working memory.
#[derive(Default)]
struct Worker {
    words: Vec<words::Word>,
    scratch: Scratch,
}

impl Worker {
    fn judge(&mut self, text: &str, options: &CleanOptions, simplify: Option<&OpenCC>) -> Judged {
        let mut lines_dropped = 0;
        let outcome = self.outcome(text, options, simplify, &mut lines_dropped);
        Judged { bytes: text.len(), lines_dropped, outcome }
    }

    fn outcome(
        &mut self,
        raw: &str,
        options: &CleanOptions,
        simplify: Option<&OpenCC>,
        lines_dropped: &mut usize,
    ) -> Result<Vec<Kept>, (Reason, String)> {
        let text = normalize(raw, options.width, lines_dropped);
        if text.is_empty() {
            return Err((Reason::Blank, text));
        }
        let language = detect(&text);
        split(&text, &mut self.words);
        if let Some(reason) = self.broken_rule(&text, language, options) {
            return Err((reason, text));
        }
        let simplified = simplify.filter(|_| language.code == "zh").map(|opencc| opencc.convert(&text));
        let texts = match (options.script, simplified) {
            (Script::Both, Some(simplified)) if simplified != text => vec![text, simplified],
            (Script::Simplified, Some(simplified)) => vec![simplified],
            _ => vec![text],
        };
        let kept = |text: String| {
            split(&text, &mut self.words);
            let near = options.dedup == Dedup::Near;
            let signature =
                (options.dedup != Dedup::None).then(|| signature(&text, &self.words, language.code, near));
            Kept { text, language: language.code, signature }
        };
        Ok(texts.into_iter().map(kept).collect())
    }

    fn broken_rule(&mut self, text: &str, language: Detected, options: &CleanOptions) -> Option<Reason> {
        let wanted =
            options.languages.is_empty() || options.languages.iter().any(|code| code == language.code);
        if !wanted {
            return Some(Reason::OtherLanguage);
        }
        if options.no_rules {
            return None;
        }
        if damaged(text) {
            return Some(Reason::Damaged);
        }
        if language.share < options.min_language_share {
            return Some(Reason::MixedLanguage);
        }
        let limits = Limits { min_words: options.min_words, max_words: options.max_words };
        check(text, &self.words, language.code, limits, &mut self.scratch)
    }
}

/// The last stage, which takes documents in order: it finds duplicates, fills the report and writes shards.
struct Sink {
    writer: ShardWriter,
    seen: SeenDocuments,
    report: Cleaned,
    val_every: usize,
    keep_validation: bool,
    sampling: Rng,
}

impl Sink {
    fn take(&mut self, split: Split, document: Judged) -> Result<(), FileError> {
        self.report.documents += 1;
        self.report.bytes += document.bytes as u64;
        self.report.lines_dropped += document.lines_dropped;
        let kept = match document.outcome {
            Ok(kept) => kept,
            Err((reason, text)) => {
                self.drop(reason, document.bytes, &text);
                return Ok(());
            }
        };
        for Kept { text, language, signature } in kept {
            match signature.map_or(Verdict::New, |signature| self.seen.judge(&signature)) {
                Verdict::New => self.write(split, &text, language)?,
                Verdict::Duplicate => self.drop(Reason::Duplicate, text.len(), &text),
                Verdict::NearDuplicate => self.drop(Reason::NearDuplicate, text.len(), &text),
            }
        }
        if self.seen.is_full() {
            self.report.full_after.get_or_insert(self.report.documents);
        }
        Ok(())
    }

    fn write(&mut self, split: Split, text: &str, language: &'static str) -> Result<(), FileError> {
        let kept: usize = self.report.languages.values().map(|[documents, _]| documents).sum();
        let by_share = if kept.is_multiple_of(self.val_every) { Split::Val } else { Split::Train };
        let [documents, chars] = self.report.languages.entry(language).or_default();
        (*documents, *chars) = (*documents + 1, *chars + text.chars().count());
        self.writer.push(if self.keep_validation { split } else { by_share }, text)
    }

    /// Counts a dropped document, and keeps some as samples, each with equal probability (reservoir sampling).
    fn drop(&mut self, reason: Reason, bytes: usize, text: &str) {
        let dropped = self.report.dropped.entry(reason).or_default();
        dropped.documents += 1;
        dropped.bytes += bytes as u64;
        let beginning = || text.chars().take(SAMPLE_CHARS).collect();
        if dropped.samples.len() < SAMPLES {
            dropped.samples.push(beginning());
        } else if let Some(sample) = dropped.samples.get_mut(self.sampling.below(dropped.documents)) {
            *sample = beginning();
        }
    }
}

/// Parses a share such as `2/8`, the third of eight.
fn shard(value: &str) -> Result<(usize, usize), String> {
    let parts = value.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if i < n => Ok((i, n)),
        _ => Err("i/n with i below n is wanted, such as 0/4 to 3/4".into()),
    }
}

#[cfg(test)]
mod tests;
