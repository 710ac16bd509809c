//! A folder that is either complete or absent: it is made inside `<folder>.partial` and renamed at the end.
//!
//! `<folder>.partial` holds a lock file and `content`, which becomes the folder. The lock file is created before the
//! content and deleted after it, and marks the folder as made by nanochat. Only these two names are ever deleted, and
//! the folder itself once it is empty.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::files::atomic_file::{sync_names, sync_names_beside};
use crate::files::file_error::{FileError, at};
use crate::files::file_lock::{open_or_make, try_lock};

const LOCK: &str = ".nanochat.lock";
const CONTENT: &str = "content";
/// The maximum number of tries if other processes keep making and deleting the partial folder.
const TRIES: usize = 100;

/// An unfinished folder. It is removed with its content if dropped before [`PartialDir::commit`].
pub struct PartialDir {
    dir: PathBuf,
    partial: PathBuf,
    content: PathBuf,
    /// The lock, held until the content is deleted or renamed.
    _lock: File,
}

impl PartialDir {
    /// Starts making `dir`, which must not exist or must be empty. What a killed process left of an earlier try is
    /// removed. Fails if another process is making the folder, or if nanochat did not make the partial folder.
    pub fn create(dir: &Path) -> Result<PartialDir, FileError> {
        // Collecting the components drops a trailing slash, which would put the partial folder inside `dir`.
        let dir: PathBuf = dir.components().collect();
        let partial: PathBuf =
            [dir.as_os_str(), ".partial".as_ref()].into_iter().collect::<OsString>().into();
        if !is_free(&dir)? {
            sweep(&partial); // left by a process killed between renaming and tidying up
            return Err(FileError::NotEmpty { path: dir });
        }
        let lock = match make_and_lock(&partial, &dir) {
            Ok(lock) => lock,
            Err(error) => {
                let _ = fs::remove_dir(&partial); // removes it only if empty: a full disk left no room for the lock file
                return Err(error);
            }
        };
        let made = PartialDir { content: partial.join(CONTENT), dir, partial, _lock: lock };
        if !is_free(&made.dir)? {
            return Err(FileError::NotEmpty { path: made.dir.clone() }); // another process has finished it meanwhile
        }
        remove_if_there(&made.content).map_err(at(&made.content))?;
        fs::create_dir(&made.content).map_err(at(&made.content))?;
        Ok(made)
    }

    /// Returns the folder to write into.
    pub fn path(&self) -> &Path {
        &self.content
    }

    /// Renames the folder to its final name; its files must have been synced.
    pub fn commit(self) -> Result<(), FileError> {
        sync_names(&self.content).map_err(at(&self.content))?;
        // An existing empty folder is replaced.
        fs::rename(&self.content, &self.dir).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty => FileError::NotEmpty { path: self.dir.clone() },
            _ => at(&self.dir)(error),
        })?;
        sync_names_beside(&self.dir).map_err(at(&self.dir))
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        tidy(&self.partial);
    }
}

/// Whether a folder is absent or empty.
fn is_free(dir: &Path) -> Result<bool, FileError> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        entries => Ok(entries.map_err(at(dir))?.next().is_none()),
    }
}

/// Makes the partial folder if it is missing, and locks it. A process killed before it made the lock file leaves an
/// empty folder.
fn make_and_lock(partial: &Path, dir: &Path) -> Result<File, FileError> {
    let lock = partial.join(LOCK);
    for _ in 0..TRIES {
        fs::create_dir_all(partial).map_err(at(partial))?;
        if !is_free(partial)? && !lock.exists() {
            return Err(FileError::InTheWay { partial: partial.into(), dir: dir.into() });
        }
        match try_lock(&lock, open_or_make) {
            Ok(Some(file)) => return Ok(file),
            Ok(None) => return Err(FileError::InTheMaking { path: dir.into() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {} // another process has just tidied up
            Err(error) => return Err(at(&lock)(error)),
        }
    }
    Err(FileError::InTheMaking { path: dir.into() })
}

/// Removes what a dead process left, even an empty folder. A folder that has files but no lock file, or whose lock is
/// held, stays.
fn sweep(partial: &Path) {
    let _ = fs::remove_dir(partial);
    let open = |path: &Path| File::options().write(true).open(path);
    if let Ok(Some(_held)) = try_lock(&partial.join(LOCK), open) {
        tidy(partial);
    }
}

/// Removes the content, then the lock file, so that a kill in between leaves a folder that is recognized. If it
/// contains other files, these and the folder stay.
fn tidy(partial: &Path) {
    if remove_if_there(&partial.join(CONTENT)).is_ok() {
        let _ = fs::remove_file(partial.join(LOCK)).and_then(|()| fs::remove_dir(partial));
    }
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path) -> Result<(), FileError> {
        let made = PartialDir::create(dir)?;
        fs::write(made.path().join("file"), "whole").unwrap();
        made.commit()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_is_there_after_the_commit_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("deeper/out");
        let made = PartialDir::create(&dir).unwrap();
        assert!(!dir.exists());
        drop(made);
        assert!(names(&temp.path().join("deeper")).is_empty());
        make(&dir).unwrap();
        assert_eq!(names(&temp.path().join("deeper")), ["out"]);
        assert_eq!(names(&dir), ["file"]);
        assert!(matches!(make(&dir), Err(FileError::NotEmpty { .. })));
    }

    #[test]
    fn of_two_makers_the_second_is_told_and_harms_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("out");
        let first = PartialDir::create(&dir).unwrap();
        fs::write(first.path().join("file"), "whole").unwrap();
        let second = make(&dir).unwrap_err().to_string();
        assert!(second.contains("another process is making") && second.contains("out"), "{second}");
        first.commit().unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), b"whole");
        assert_eq!(names(temp.path()), ["out"]);
    }

    #[test]
    fn what_a_dead_process_left_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, partial) = (temp.path().join("out"), temp.path().join("out.partial"));
        let leave = || {
            fs::create_dir_all(partial.join(CONTENT)).unwrap();
            fs::write(partial.join(CONTENT).join("half"), "ha").unwrap();
            fs::write(partial.join(LOCK), "").unwrap();
        };
        fs::create_dir(&partial).unwrap(); // a process was killed before it made the lock file
        make(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        leave();
        make(&dir).unwrap();
        assert_eq!((names(temp.path()), names(&dir)), (vec!["out".into()], vec!["file".into()]));
        leave(); // also if the folder exists already
        assert!(matches!(make(&dir), Err(FileError::NotEmpty { .. })));
        assert_eq!(names(temp.path()), ["out"]);
    }

    #[test]
    fn a_folder_of_someone_else_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, partial) = (temp.path().join("out"), temp.path().join("out.partial"));
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("diary"), "mine").unwrap();
        let refused = make(&dir).unwrap_err().to_string();
        assert!(refused.contains("out.partial") && refused.contains("move it away"), "{refused}");
        assert_eq!((names(&partial), dir.exists()), (vec!["diary".into()], false));
        // Files that were put beside ours are not lost either.
        fs::write(partial.join(LOCK), "").unwrap();
        make(&dir).unwrap();
        assert_eq!((names(&partial), names(&dir)), (vec!["diary".into()], vec!["file".into()]));
    }

    #[test]
    fn a_folder_filled_meanwhile_is_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("out");
        let made = PartialDir::create(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("other"), "").unwrap();
        assert!(matches!(made.commit(), Err(FileError::NotEmpty { .. })));
        assert_eq!((names(&dir), names(temp.path())), (vec!["other".into()], vec!["out".into()]));
    }
}
