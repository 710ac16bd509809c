//! Pretraining text on disk: a folder of parquet shards with one `text` column, in nanochat's layout.
//! Sorted by name, the last file is validation and the others are for training.

mod error;
mod write;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::files::columns::Rows;
pub use crate::files::columns::{ParquetTexts, is_guarded};
use crate::files::file_error::at;
use crate::terminal::counted::counted;
use crate::terminal::escape;
use crate::terminal::output;
pub use error::DatasetError;
pub use write::{CHARS_PER_SHARD, ShardWriter, Written};

/// The number of rows read and tokenized together: enough for every core, few enough to bound the memory.
pub const CHUNK_ROWS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Val,
}

/// The treatment of a training shard that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnBadShard {
    /// Stop with an error that names it
    #[default]
    Refuse,
    /// Name it once on stderr and go on without it
    Skip,
}

/// The shards of a folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct Shards {
    dir: PathBuf,
    train: Arc<[Shard]>,
    val: Arc<[Shard]>,
    on_bad: OnBadShard,
    /// The files that a warning has named; one warning per epoch would be too many.
    warned: Arc<Mutex<BTreeSet<PathBuf>>>,
}

#[derive(Clone, Debug)]
struct Shard {
    path: PathBuf,
    name: String,
    /// The number of rows in each row group.
    rows: Arc<[usize]>,
}

/// The position of a row. `shard` is its index in the split's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowAt {
    pub shard: usize,
    pub row_group: usize,
    pub row: usize,
}

/// A rank's share of the row groups: those whose number in the split is `rank` modulo `world`.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub rank: usize,
    pub world: usize,
}

/// A chunk of up to [`CHUNK_ROWS`] consecutive rows of one row group, the first of them at `at`. A row that is null or
/// not UTF-8 is None and keeps its place, so positions stay those of the file.
#[derive(Debug)]
pub struct TextChunk {
    pub at: RowAt,
    pub texts: Vec<Option<String>>,
}

impl Shards {
    /// Opens every `*.parquet` of `dir` far enough to count row groups, which finds truncated
    /// downloads before a run starts.
    pub fn open(dir: &Path, on_bad: OnBadShard) -> Result<Shards, DatasetError> {
        let mut paths = parquet_files(dir)?;
        let last = paths.pop().ok_or_else(|| DatasetError::NoShards { dir: dir.into() })?;
        if paths.is_empty() {
            return Err(DatasetError::OneShard { dir: dir.into(), name: file_name(&last) });
        }
        let shards = Shards::of_validation(dir, last, on_bad)?;
        let mut train = Vec::new();
        for opened in paths.into_par_iter().map(Shard::open).collect::<Vec<_>>() {
            match opened {
                Ok(shard) => train.push(shard),
                Err((path, reason)) => shards.bad(&path, reason)?,
            }
        }
        Ok(Shards { train: train.into(), ..shards })
    }

    /// Opens only the validation shard: the last one of a folder, which may be its only one, or a single file.
    pub fn open_validation(path: &Path, on_bad: OnBadShard) -> Result<Shards, DatasetError> {
        let last = match path.is_dir() {
            true => parquet_files(path)?.pop().ok_or_else(|| DatasetError::NoShards { dir: path.into() })?,
            false => path.into(),
        };
        Shards::of_validation(path, last, on_bad)
    }

    fn of_validation(dir: &Path, val: PathBuf, on_bad: OnBadShard) -> Result<Shards, DatasetError> {
        let bad = |(path, reason)| DatasetError::BadValidationShard { path, reason };
        let val = [Shard::open(val).map_err(bad)?].into();
        Ok(Shards { dir: dir.into(), train: Arc::new([]), val, on_bad, warned: Arc::default() })
    }

    /// Iterates over all texts of a split in order, to train a tokenizer.
    pub fn texts(&self, split: Split) -> impl Iterator<Item = Result<String, DatasetError>> + use<> {
        let mut chunks = self.chunks(split, RowAt::default()).peekable();
        let empty = chunks.peek().is_none().then(|| Err(self.empty(split)));
        empty.into_iter().chain(chunks.flat_map(|chunk| match chunk {
            Ok(chunk) => chunk.texts.into_iter().flatten().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }))
    }

    /// Iterates once over the rows of a split, starting at `from`.
    pub fn chunks(&self, split: Split, from: RowAt) -> Chunks {
        self.chunks_of(split, from, Share { rank: 0, world: 1 })
    }

    /// Iterates like [`Shards::chunks`] over the row groups of one share. Files without any of them are not opened.
    pub(crate) fn chunks_of(&self, split: Split, from: RowAt, share: Share) -> Chunks {
        Chunks { shards: self.clone(), split, share, at: from, open: None, bad_rows: 0 }
    }

    /// Returns the number of a row group in its split.
    pub(crate) fn group_number(&self, split: Split, at: RowAt) -> usize {
        let before = &self.list(split)[..at.shard];
        before.iter().map(|shard| shard.rows.len()).sum::<usize>() + at.row_group
    }

    /// Returns the number of rows in each row group of a shard. None if there are fewer shards.
    pub(crate) fn row_groups(&self, split: Split, shard: usize) -> Option<&[usize]> {
        self.list(split).get(shard).map(|shard| &*shard.rows)
    }

    pub(crate) fn check_not_empty(&self, split: Split) -> Result<(), DatasetError> {
        match self.list(split).iter().all(|shard| shard.rows.is_empty()) {
            true => Err(self.empty(split)),
            false => Ok(()),
        }
    }

    /// Returns the fraction of one pass over a split that lies before a row, 0 to 1.
    pub(crate) fn passed(&self, split: Split, at: RowAt) -> f64 {
        let (mut before, mut all) = (0.0, 0.0); // a damaged file may claim any number of rows
        for (i, shard) in self.list(split).iter().enumerate() {
            for (group, rows) in shard.rows.iter().enumerate() {
                all += *rows as f64;
                before += match (i, group).cmp(&(at.shard, at.row_group)) {
                    Ordering::Less => *rows as f64,
                    Ordering::Equal => at.row.min(*rows) as f64,
                    Ordering::Greater => 0.0,
                };
            }
        }
        before / f64::max(all, 1.0)
    }

    pub(crate) fn shard_name(&self, split: Split, index: usize) -> &str {
        &self.list(split)[index].name
    }

    pub(crate) fn shard_index(&self, split: Split, name: &str) -> Result<usize, DatasetError> {
        self.list(split)
            .iter()
            .position(|shard| shard.name == name)
            .ok_or_else(|| DatasetError::LostShard { dir: self.dir.clone(), shard: name.into() })
    }

    pub(crate) fn empty(&self, split: Split) -> DatasetError {
        DatasetError::Empty { dir: self.dir.clone(), split: split.name() }
    }

    fn list(&self, split: Split) -> &Arc<[Shard]> {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    fn bad(&self, path: &Path, reason: String) -> Result<(), DatasetError> {
        if self.val.iter().any(|shard| shard.path == path) {
            return Err(DatasetError::BadValidationShard { path: path.into(), reason });
        }
        if self.on_bad == OnBadShard::Refuse {
            return Err(DatasetError::BadShard { path: path.into(), reason });
        }
        self.warn_once(path, &format!("skipping shard {} ({reason})", path.display()));
        Ok(())
    }

    fn warn_once(&self, path: &Path, message: &str) {
        let mut warned = self.warned.lock().expect("no code panics while it holds this lock");
        if warned.insert(path.into()) {
            output::tell(&format!("warning: {}", escape::line(message)));
        }
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Shard, (PathBuf, String)> {
        match ParquetTexts::open(&path, "text") {
            Ok(file) => Ok(Shard { name: file_name(&path), rows: file.row_counts().into(), path }),
            Err(reason) => Err((path, reason)),
        }
    }
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "training",
            Split::Val => "validation",
        }
    }
}

/// The iterator of [`Shards::chunks`].
pub struct Chunks {
    shards: Shards,
    split: Split,
    share: Share,
    at: RowAt,
    open: Option<(ParquetTexts, Option<Rows>)>,
    /// The number of bad rows in the open file.
    bad_rows: usize,
}

impl Iterator for Chunks {
    type Item = Result<TextChunk, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(shard) = self.shards.list(self.split).get(self.at.shard).cloned() {
            match self.next_in_file(&shard) {
                Ok(Some(chunk)) => return Some(Ok(chunk)),
                Ok(None) => self.next_file(&shard),
                Err(reason) => {
                    self.next_file(&shard);
                    if let Err(error) = self.shards.bad(&shard.path, reason) {
                        self.at.shard = usize::MAX; // the end: nothing follows a refused shard
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}

impl Chunks {
    fn next_in_file(&mut self, shard: &Shard) -> Result<Option<TextChunk>, String> {
        while self.at.row_group < shard.rows.len() {
            if self.shards.group_number(self.split, self.at) % self.share.world != self.share.rank {
                self.at = RowAt { row_group: self.at.row_group + 1, row: 0, ..self.at };
                continue;
            }
            if self.open.is_none() {
                self.open = Some((ParquetTexts::open(&shard.path, "text")?, None));
            }
            let (file, rows) = self.open.as_mut().expect("opened above");
            let from = match rows {
                Some(rows) => rows,
                None => rows.insert(file.rows(self.at.row_group, self.at.row)?),
            };
            let values = from.next_rows(CHUNK_ROWS)?;
            if values.is_empty() {
                *rows = None;
                self.at = RowAt { row_group: self.at.row_group + 1, row: 0, ..self.at };
                continue;
            }
            let at = self.at;
            self.at.row += values.len();
            let texts = values.into_iter().map(|value| match String::from_utf8(value?) {
                Ok(text) => Some(text),
                Err(_) => {
                    self.bad_rows += 1;
                    None
                }
            });
            return Ok(Some(TextChunk { at, texts: texts.collect() }));
        }
        Ok(None)
    }

    fn next_file(&mut self, shard: &Shard) {
        if self.bad_rows > 0 {
            let (path, rows) = (shard.path.display(), counted(self.bad_rows, "row"));
            self.shards.warn_once(&shard.path, &format!("{path}: left out {rows} not in UTF-8"));
        }
        self.open = None;
        self.bad_rows = 0;
        self.at = RowAt { shard: self.at.shard + 1, ..RowAt::default() };
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the `*.parquet` files of a folder, sorted by name.
fn parquet_files(dir: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut paths = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|error| match error.kind() {
        ErrorKind::NotFound => DatasetError::NoFolder { dir: dir.into() },
        _ => at(dir)(error).into(),
    })?;
    for entry in entries {
        let path = entry.map_err(at(dir))?.path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
