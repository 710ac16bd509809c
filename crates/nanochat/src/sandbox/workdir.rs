//! The folder of one program's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::SandboxError;

const MOST_BYTES: u64 = 16 << 20;
const MOST_FILES: usize = 256;

/// Removed with all in it when dropped.
pub struct WorkDir(PathBuf);

impl WorkDir {
    pub fn create() -> Result<WorkDir, SandboxError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nanochat-program-{}-{count}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // Fails if somebody has put something there.
        builder.create(&path).map_err(|error| SandboxError::Start { folder: path.clone(), error })?;
        Ok(WorkDir(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A program cannot make folders, so one level is all.
    pub fn is_full(&self) -> bool {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
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

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what cannot be removed does no harm
    }
}
