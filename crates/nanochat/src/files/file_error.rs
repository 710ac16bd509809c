//! The errors of files and folders; each is one sentence that names the file or the folder.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{path} cannot be read: {reason}")]
    BadFile { path: PathBuf, reason: String },
    #[error("{path}, line {line}: {reason}")]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{path}, row {row}: {reason}")]
    Row { path: PathBuf, row: usize, reason: String },
    #[error("cannot write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
    #[error("{path} already exists and is not empty; choose another folder or remove it first")]
    NotEmpty { path: PathBuf },
    #[error("another process is making {path}; let it finish, or stop it first")]
    InTheMaking { path: PathBuf },
    #[error("{partial}, where {dir} would be made, holds files that nanochat did not make; move it away")]
    InTheWay { partial: PathBuf, dir: PathBuf },
}

/// Turns an I/O error into one that names `path`.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> FileError + '_ {
    move |error| FileError::Io { path: path.into(), error }
}
