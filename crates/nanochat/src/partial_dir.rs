//! A folder that is complete or not there: made under the name `<folder>.partial`, renamed at the end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::dataset::{DataError, at};

/// Removed with all in it when dropped before [`PartialDir::commit`].
pub struct PartialDir {
    dir: PathBuf,
    partial: PathBuf,
}

impl PartialDir {
    /// `dir` must not exist or be empty. What a killed process left of an earlier try is removed.
    pub fn create(dir: &Path) -> Result<PartialDir, DataError> {
        if dir.exists() && fs::read_dir(dir).map_err(at(dir))?.next().is_some() {
            return Err(DataError::NotEmpty { path: dir.into() });
        }
        // Collecting the components drops a slash at the end, which would put the folder inside itself.
        let dir: PathBuf = dir.components().collect();
        let partial: PathBuf =
            [dir.as_os_str(), ".partial".as_ref()].into_iter().collect::<OsString>().into();
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(at(&partial))?;
        }
        fs::create_dir_all(&partial).map_err(at(&partial))?;
        Ok(PartialDir { dir, partial })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the folder its name; the files in it must have been synced.
    pub fn commit(self) -> Result<(), DataError> {
        sync_dir(&self.partial)?;
        fs::rename(&self.partial, &self.dir).map_err(at(&self.dir))?; // replaces an empty one
        match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
            _ => sync_dir(Path::new(".")),
        }
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.partial); // not there any more after a commit
    }
}

/// Makes the names in a folder last through a power cut. (Other systems than Unix cannot open a folder.)
fn sync_dir(dir: &Path) -> Result<(), DataError> {
    if cfg!(unix) { File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir)) } else { Ok(()) }
}
