//! What can go wrong with data on disk; each variant is one sentence that names the file.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{dir} has no .parquet shards; make some with `nanochat data make` or `nanochat data ingest`")]
    NoShards { dir: PathBuf },
    #[error(
        "there is no folder {dir}; shards come from `nanochat data make`, `data ingest` or `data download`"
    )]
    NoFolder { dir: PathBuf },
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
    #[error(
        "the run was started with {saved} conversations, but now there are {found}; \
         use the data and the sequence length it was started with"
    )]
    OtherConversations { saved: usize, found: usize },
    #[error("the saved position lies beyond its conversation: the data or the tokenizer is another one now")]
    ChangedConversation,
    #[error("the mixture {mixture} cannot be used: {reason}")]
    Mixture { mixture: String, reason: String },
    #[error(
        "the run was started with {saved} corpora, but now there are {found}; mix those it was started with"
    )]
    OtherSources { saved: usize, found: usize },
    #[error(transparent)]
    Conversation(#[from] crate::conversation::ConversationError),
    #[error("{path} already exists and is not empty; choose another folder or remove it first")]
    NotEmpty { path: PathBuf },
    #[error("another process is making {path}; let it finish, or stop it first")]
    InTheMaking { path: PathBuf },
    #[error("{partial}, where {dir} would be made, holds files that nanochat did not make; move it away")]
    InTheWay { partial: PathBuf, dir: PathBuf },
    #[error("{train} training and {val} validation documents: at least one of each is needed{left_out}")]
    TooFewDocuments { train: usize, val: usize, left_out: String },
    #[error("cannot write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
    #[error(
        "no conversation, of {read} in all, has anything to learn from (assistant text within {max_len} tokens)"
    )]
    NoTrainedTokens { read: usize, max_len: usize },
    #[error("{path} has nothing to learn from: {reason}")]
    NothingToLearn { path: PathBuf, reason: String },
    #[error("{path}, line {line}: {reason}")]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{path}, row {row}: {reason}")]
    Row { path: PathBuf, row: usize, reason: String },
    #[error("nothing to read: found no .txt, .md, .json, .jsonl, .csv, .tsv or .parquet files in {0}")]
    NoFiles(String),
    #[error("--shard splits files, and there are only {found} files for {shards} shares")]
    FewFiles { found: usize, shards: usize },
    #[error("{path} cannot be read: {reason}")]
    BadFile { path: PathBuf, reason: String },
}

/// Turns an I/O error into one that names `path`.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> DataError + '_ {
    move |error| DataError::Io { path: path.into(), error }
}
