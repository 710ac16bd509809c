//! The folder of one program's own.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::SandboxError;

const NAME: &str = "nanochat-program-";
const MOST_BYTES: u64 = 16 << 20;
const MOST_FILES: usize = 256;

/// Removed with all in it when dropped.
pub struct WorkDir {
    path: PathBuf,
    /// Held while the folder is in use, and let go by the kernel if this process is killed. (Other systems than Unix
    /// cannot open a folder.)
    _lock: Option<File>,
}

impl WorkDir {
    pub fn create() -> Result<WorkDir, SandboxError> {
        loop {
            // Nobody can foresee it: the keys of std's hash tables come from the system's randomness.
            let path = std::env::temp_dir().join(format!("{NAME}{:016x}", RandomState::new().hash_one(0)));
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&path).and_then(|()| lock(&path)) {
                Ok(lock) if path.exists() => return Ok(WorkDir { path, _lock: lock }),
                // Swept before it was locked: another one.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound) => {}
                Err(error) => return Err(SandboxError::Start { folder: path, error }),
            }
        }
    }

    /// Removes what processes that were killed have left in the folder for temporary files.
    pub fn sweep(temporary: &Path) {
        let entries = fs::read_dir(temporary).into_iter().flatten().flatten();
        let ours = |entry: &fs::DirEntry| {
            entry.file_name().to_string_lossy().starts_with(NAME)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        };
        for folder in entries.filter(ours).map(|entry| entry.path()) {
            if let Ok(Some(_lock)) = lock(&folder) {
                let _ = fs::remove_dir_all(&folder); // somebody else's, perhaps
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A program cannot make folders, so one level is all.
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

/// None where there are no locks; an error if somebody else holds it.
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
        let _ = fs::remove_dir_all(&self.path); // what cannot be removed does no harm
    }
}
