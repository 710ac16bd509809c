//! Locks on files. The system releases them when their process ends, even by kill -9, so that what a dead process left
//! can be told from what a live one is writing.
//!
//! Some file systems have no locks (a few network drives). There every file counts as free: if two processes write the
//! same file, the later one replaces the work of the earlier one, but no process is refused without reason.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The maximum number of tries if the file is replaced during each of them.
const TRIES: usize = 100;

/// Opens `path` with `open` and locks it. Returns None if another holder has the lock. The locked file is the one that
/// has the name now: if it was renamed or deleted between opening and locking, `path` is opened again.
pub fn try_lock(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if !is_at(&file, path) => continue,
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => return Ok(None),
        }
    }
    Err(io::Error::other("other processes make and delete it again and again"))
}

/// Opens `path` with `open` and waits for its lock. Returns None if the file system has no locks.
pub fn lock(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        match file.lock() {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Opens a file for writing, creating it if it is missing, and keeps its content.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

/// Whether `path` still names `file`; another file may have taken the name while this process waited for the lock.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let name = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let [ours, named] = [file.metadata(), path.metadata()].map(|metadata| metadata.map(name).ok());
    ours.is_some() && ours == named
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_renamed_before_it_is_locked_is_not_taken() {
        let temp = tempfile::tempdir().unwrap();
        let (part, whole) = (temp.path().join("file.part"), temp.path().join("file"));
        fs::write(&part, "whole").unwrap();
        let open = |path: &Path| {
            let file = open_or_make(path)?;
            if !whole.exists() {
                fs::rename(path, &whole)?; // like a process that has just finished the file
            }
            Ok(file)
        };
        let locked = try_lock(&part, open).unwrap().expect("nobody holds it");
        locked.set_len(0).unwrap();
        assert_eq!((fs::read(&whole).unwrap(), fs::read(&part).unwrap()), (b"whole".into(), vec![]));
        assert!(try_lock(&part, open_or_make).unwrap().is_none());
    }
}
