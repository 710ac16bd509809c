//! The private folder of one program.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::SandboxError;

const NAME: &str = "nanochat-program-";
const MOST_BYTES: u64 = 16 << 20;
const MOST_FILES: usize = 256;

/// A private folder, removed with its content when dropped.
pub struct WorkDir {
    path: PathBuf,
    /// The lock, held while the folder is in use; the kernel releases it if this process is killed. (Only Unix can open
    /// a folder.)
    _lock: Option<File>,
}

impl WorkDir {
    pub fn create() -> Result<WorkDir, SandboxError> {
        loop {
            // The name is unpredictable: the keys of std's hash tables come from the system's randomness.
            let path = std::env::temp_dir().join(format!("{NAME}{:016x}", RandomState::new().hash_one(0)));
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&path).and_then(|()| lock(&path)) {
                Ok(lock) if path.exists() => return Ok(WorkDir { path, _lock: lock }),
                // Another process swept the folder before it was locked, so try another name.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound) => {}
                Err(error) => return Err(SandboxError::Start { folder: path, error }),
            }
        }
    }

    /// Removes the folders that killed processes have left in the folder `temporary`.
    pub fn sweep(temporary: &Path) {
        let entries = fs::read_dir(temporary).into_iter().flatten().flatten();
        let ours = |entry: &fs::DirEntry| {
            entry.file_name().to_string_lossy().starts_with(NAME)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        };
        for folder in entries.filter(ours).map(|entry| entry.path()) {
            if let Ok(Some(_lock)) = lock(&folder) {
                let _ = fs::remove_dir_all(&folder); // it may belong to another user
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder exceeds its limits. A program cannot make folders, so only one level is counted.
    pub fn is_full(&self) -> bool {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let sizes = entries.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()));
        let mut bytes = 0;
        for (i, size) in sizes.enumerate() {
            bytes += size;
            if i >= MOST_FILES || bytes > MOST_BYTES {
                return true;
            }
        }
        false
    }
}

/// Locks a folder. Returns None if the file system has no locks, and an error if another process holds the lock.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    if !cfg!(unix) {
        return Ok(None);
    }
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // files that cannot be removed do no harm
    }
}
