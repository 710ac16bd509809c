//! The errors of a corpus's shards; each is one sentence that names the file or the folder.

use std::path::PathBuf;

use crate::files::file_error::FileError;

#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error(
        "there is no folder {dir}; shards come from `nanochat data make`, `data ingest` or `data download`"
    )]
    NoFolder { dir: PathBuf },
    #[error("{dir} has no .parquet shards; make some with `nanochat data make` or `nanochat data ingest`")]
    NoShards { dir: PathBuf },
    #[error(
        "{dir} has a single shard, {name}, but two are needed: the last one is kept for validation and the others train; \
         add a shard, or let `nanochat data ingest` split this one"
    )]
    OneShard { dir: PathBuf, name: String },
    #[error(
        "shard {path} cannot be read ({reason}); fetch or make it again, or leave it out with --bad-shards skip"
    )]
    BadShard { path: PathBuf, reason: String },
    #[error(
        "the validation shard {path} cannot be read ({reason}); fetch or make it again: \
         another one in its place would change what validation measures"
    )]
    BadValidationShard { path: PathBuf, reason: String },
    #[error("{dir} has no documents in its {split} shards")]
    Empty { dir: PathBuf, split: &'static str },
    #[error(
        "the saved position is in shard {shard}, which {dir} does not have; put it back or start without --resume"
    )]
    LostShard { dir: PathBuf, shard: String },
    #[error(
        "the saved position lies beyond the text of shard {shard}: the shard or the tokenizer is another one now; \
         put it back or start without --resume"
    )]
    ChangedShard { shard: String },
    #[error("{train} training and {val} validation documents: at least one of each is needed{left_out}")]
    TooFewDocuments { train: usize, val: usize, left_out: String },
    #[error(transparent)]
    File(#[from] FileError),
}
