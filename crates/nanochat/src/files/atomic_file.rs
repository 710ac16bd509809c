//! Writes files so that they are either complete or absent.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::files::file_lock::{lock, open_or_make};

/// Writes `bytes` to `path` through a temporary sibling and a rename, so that neither a full disk nor a
/// killed process leaves half a file or loses the old one. Makes the folder if it is missing.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fill(path, |file| file.write_all(bytes))
}

/// Writes a file as [`write`] does, with the content that the function `content` writes.
///
/// The temporary sibling is `<name>.nanochat.tmp` in every process: the process that has locked it writes, others wait.
/// A killed process therefore leaves no file for good; the next write of the same file starts it anew and renames it.
///
/// The sibling is `<name>.nanochat.tmp` for every process: who has locked it writes, others wait. So a killed one's is
/// not left for good; the next write of the same file begins it anew and renames it.
pub fn fill(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let (temporary, mut file) = temporary(path)?;
    let written =
        content(&mut file).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the error that matters is the first one
    }
    written.and_then(|()| sync_names_beside(path))
}

/// Whether a file of this name is a temporary one of [`fill`] or of an earlier version, which wrote
/// `<name>.<process>.tmp`.
pub(crate) fn is_temporary(name: &str) -> bool {
    let before = name.strip_suffix(".tmp").and_then(|name| name.rsplit_once('.'));
    before.is_some_and(|(_, last)| last == "nanochat" || last.parse::<u32>().is_ok())
}

/// Syncs the folder of `path`, so that the file's name survives a power cut.
pub fn sync_names_beside(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_names(folder.unwrap_or(Path::new(".")))
}

/// Syncs a folder, so that the names in it survive a power cut. Does nothing where this is impossible: only Unix can
/// open a folder, and some network drives refuse to sync one.
pub fn sync_names(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Opens an empty temporary file for this writer alone: by a lock or, where the file system has no locks, by the
/// process id in its name.
fn temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    let sibling = |end: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    };
    let shared = sibling(".nanochat.tmp");
    if let Some(file) = lock(&shared, open_or_make)? {
        file.set_len(0)?;
        return Ok((shared, file));
    }
    let own = sibling(&format!(".{}.nanochat.tmp", std::process::id()));
    let _ = fs::remove_file(&shared);
    File::create(&own).map(|file| (own, file))
}

#[cfg(test)]
mod tests {
    #[test]
    fn replaces_the_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file.txt");
        super::write(&path, b"one").unwrap();
        super::write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        super::write(&dir.path().join("folder"), b"three").unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_dead_writer_left_goes_with_the_next_write() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file.txt.nanochat.tmp"), "longer than what comes next").unwrap();
        super::write(&dir.path().join("file.txt"), b"next").unwrap();
        assert_eq!(std::fs::read(dir.path().join("file.txt")).unwrap(), b"next");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn temporary_names_are_told_from_those_of_a_user() {
        for (name, expected) in [
            ("metrics.jsonl.nanochat.tmp", true),
            ("metrics.jsonl.4321.nanochat.tmp", true),
            ("metrics.jsonl.4321.tmp", true),
            ("notes.tmp", false),
            ("4321.tmp", false),
            ("metrics.jsonl", false),
        ] {
            assert_eq!(super::is_temporary(name), expected, "{name}");
        }
    }

    #[test]
    fn writers_of_one_file_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.txt");
        std::thread::scope(|scope| {
            for writer in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    (0..20).for_each(|_| super::write(path, &[writer; 40_000]).unwrap());
                });
            }
        });
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() == 40_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
