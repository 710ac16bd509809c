//! Turns text files into pretraining shards: .txt, .md, .json, .jsonl, .csv, .tsv (these also .gz, .zst) and .parquet,
//! in folders of any depth.

mod field;
mod files;
mod oddities;
mod read;
mod sink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use nanochat_tensor::Rng;

use crate::files::encoding::Encoding;
use crate::files::file_error::FileError;
use crate::files::lines::BadLines;
use crate::text::dataset::{DatasetError, ShardWriter, Written};
pub use files::{FileKind, PassedOver, Unread};
pub(crate) use files::{InputFile, input_files};
pub use oddities::{Found, Oddities, Oddity};
pub(crate) use read::documents;
use sink::IngestSink;

/// Options that say how files become documents.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct ReadOptions {
    /// Field of JSON objects, or column of .csv, .tsv and .parquet files, that has the text; a.b is the field b inside
    /// a
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Make each line of a .txt or .md file a document (otherwise the whole file is one)
    #[arg(long)]
    pub split_lines: bool,
    /// The encoding of the files that are not UTF-8: gbk, big5, utf-16le, … (a byte order mark tells it too)
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<Encoding>,
    /// Lines and rows that are not UTF-8, no JSON, or without the field
    #[arg(long, value_enum, default_value_t)]
    pub bad_lines: BadLines,
}

/// Options that say how documents become a corpus. NUL characters are removed from documents; blank documents are left
/// out and counted.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct IngestOptions {
    #[command(flatten)]
    pub read: ReadOptions,
    /// Share of the documents for validation, taken at even distances; at least one document
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub val_share: f64,
    /// Characters in a shard
    #[arg(long, value_parser = crate::terminal::flag_values::large::<usize>, default_value_t = crate::text::dataset::CHARS_PER_SHARD)]
    pub chars_per_shard: usize,
    /// Shuffle with this seed: the files, and documents within 256 MiB of text
    #[arg(long, value_parser = crate::terminal::flag_values::seed)]
    pub seed: Option<u64>,
}

/// The counts of what was read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// The numbers of files and documents, by kind of file.
    pub kinds: BTreeMap<FileKind, Count>,
    pub passed: PassedOver,
    pub odd: Oddities,
    /// The number of blank documents, which are left out.
    pub blank: usize,
    /// The number of NUL characters removed.
    pub nuls: usize,
    pub written: Written,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub files: usize,
    pub documents: usize,
}

/// The reasons why files could not become a corpus.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("nothing to read: found no .txt, .md, .json, .jsonl, .csv, .tsv or .parquet files in {0}")]
    NoFiles(String),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Writes the text of `paths` (files, or folders with their subfolders) into the new folder `out`. Progress counts
/// bytes of files. Without a seed, files are read in the given order, and those of a folder by name.
pub fn ingest(
    paths: &[PathBuf],
    out: &Path,
    options: &IngestOptions,
    progress: &ProgressBar,
) -> Result<Ingested, IngestError> {
    let (mut files, passed) = input_files(paths)?;
    if let Some(seed) = options.seed {
        Rng::new(&[seed, 0]).shuffle(&mut files);
    }
    progress.set_length(files.iter().map(InputFile::len).sum());
    let mut sink = IngestSink::new(ShardWriter::create(out, options.chars_per_shard)?, options);
    let mut odd = Oddities::default();
    for file in &files {
        sink.start(file);
        documents(file, &options.read, progress, &mut odd, &mut |text| sink.add(text))?;
    }
    let report = sink.finish().map_err(|error| odd.explain(error))?;
    Ok(Ingested { passed, odd, ..report })
}

pub(crate) fn share(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 0.5 => Ok(share),
        _ => Err("must be above 0 and at most 0.5".into()),
    }
}

#[cfg(test)]
mod tests;
