//! Files of text to pretraining shards: .txt, .md, .jsonl (these also .gz, .zst) and .parquet, in folders
//! of any depth.

mod read;
mod sink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use nanochat_tensor::Rng;

use crate::dataset::{DataError, ShardWriter, Written, at};
pub(crate) use read::documents;
use sink::Sink;

/// How files become documents, and documents a corpus. NUL characters are removed from documents; those
/// that are blank or not UTF-8 are left out and counted.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct IngestOptions {
    /// The field of .jsonl objects and the column of .parquet files that holds the text
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Every line of a .txt or .md file is a document (otherwise the whole file is one)
    #[arg(long)]
    pub split_lines: bool,
    /// Share of the documents kept for validation, taken at even distances; at least one is
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub val_share: f64,
    /// Characters in a shard
    #[arg(long, default_value_t = crate::dataset::CHARS_PER_SHARD)]
    pub chars_per_shard: usize,
    /// Shuffle with this seed: the files, and documents within 256 MiB of text
    #[arg(long)]
    pub seed: Option<u64>,
}

/// What was read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Files and documents by kind of file.
    pub kinds: BTreeMap<Kind, Count>,
    /// Extensions that are none of the known kinds, and how many files have them.
    pub unknown: BTreeMap<String, usize>,
    /// Blank documents, left out.
    pub blank: usize,
    /// Documents that are not UTF-8, left out.
    pub not_utf8: usize,
    /// The file of the first of these.
    pub first_not_utf8: Option<PathBuf>,
    /// NUL characters removed.
    pub nuls: usize,
    pub written: Written,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub files: usize,
    pub documents: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Text,
    JsonLines,
    Parquet,
}

/// Writes the text of `paths` (files, or folders and all below) into the new folder `out`. Progress counts bytes
/// of files. Without a seed, files are read in the order given, those of a folder by name.
pub fn ingest(
    paths: &[PathBuf],
    out: &Path,
    options: &IngestOptions,
    progress: &ProgressBar,
) -> Result<Ingested, DataError> {
    let mut report = Ingested::default();
    let mut files = input_files(paths, &mut report.unknown)?;
    if let Some(seed) = options.seed {
        Rng::new(&[seed, 0]).shuffle(&mut files);
    }
    progress.set_length(files.iter().map(InputFile::len).sum());
    let mut sink = Sink::new(ShardWriter::create(out, options.chars_per_shard)?, options, report);
    for file in &files {
        sink.start(file);
        documents(file, &options.field, options.split_lines, progress, &mut |bytes| sink.add_bytes(bytes))?;
    }
    sink.finish()
}

pub(crate) struct InputFile {
    pub path: PathBuf,
    pub kind: Kind,
}

impl InputFile {
    /// In bytes, as it lies on the disk.
    pub fn len(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }
}

/// The files of `paths`, at least one; extensions of other kinds are counted in `unknown`.
pub(crate) fn input_files(
    paths: &[PathBuf],
    unknown: &mut BTreeMap<String, usize>,
) -> Result<Vec<InputFile>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        list(path, &mut files, unknown)?;
    }
    if files.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(DataError::NoFiles(names.join(", ")));
    }
    Ok(files)
}

/// Adds a file, or the files of a folder and those below in the order of their names. Hidden entries
/// and links to folders are passed over.
fn list(
    path: &Path,
    files: &mut Vec<InputFile>,
    unknown: &mut BTreeMap<String, usize>,
) -> Result<(), DataError> {
    if path.metadata().map_err(at(path))?.is_dir() {
        let entries = std::fs::read_dir(path).map_err(at(path))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(at(path))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let linked_folder = entry.path().is_symlink() && entry.path().is_dir(); // may be a circle
            if !hidden && !linked_folder {
                list(&entry.path(), files, unknown)?;
            }
        }
        return Ok(());
    }
    match Kind::of(path) {
        Ok(kind) => files.push(InputFile { path: path.into(), kind }),
        Err(extension) => *unknown.entry(extension).or_default() += 1,
    }
    Ok(())
}

impl Kind {
    /// By extension; an unknown one is returned.
    fn of(path: &Path) -> Result<Kind, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst"));
        match plain.unwrap_or(&name).rsplit_once('.') {
            Some((_, "txt" | "md")) => Ok(Kind::Text),
            Some((_, "jsonl")) => Ok(Kind::JsonLines),
            Some((_, "parquet")) if plain.is_none() => Ok(Kind::Parquet),
            _ => Err(name.split_once('.').map_or("no extension".into(), |(_, end)| format!(".{end}"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::JsonLines => "JSON lines",
            Kind::Parquet => "parquet",
        }
    }
}

pub(crate) fn share(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 0.5 => Ok(share),
        _ => Err("must be above 0 and at most 0.5".into()),
    }
}

#[cfg(test)]
mod tests;
