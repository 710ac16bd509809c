//! Unpacks the archives of data sets in place, with limits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nanochat::files::atomic_file;
use nanochat::files::file_error::FileError;
use nanochat::files::partial_dir::PartialDir;
use zip::ZipArchive;

/// The most files of an archive: several times what the largest data set holds.
const MOST_FILES: usize = 20_000;
const MOST_BYTES: u64 = 2 << 30;

/// Unpacks a zip into its own folder. A new folder of it appears whole or not at all; in an existing one the files are
/// overwritten one by one. A name that leads out of the folder, or an archive beyond the limits, is an error.
pub fn unzip(path: &Path) -> anyhow::Result<()> {
    unzip_within(path, MOST_BYTES)
}

fn unzip_within(path: &Path, most: u64) -> anyhow::Result<()> {
    let shown = path.display();
    let broken = || format!("{shown} is not a whole zip archive; delete it and run the command again");
    let file = File::open(path).with_context(|| format!("failed to read {shown}"))?;
    let mut archive = ZipArchive::new(file).with_context(broken)?;
    if archive.len() > MOST_FILES {
        bail!("{shown} holds {} files; the most that are unpacked are {MOST_FILES}", archive.len());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut new = NewFolders::default();
    let mut left = most;
    for i in 0..archive.len() {
        let entry = archive.by_index(i).with_context(broken)?;
        let Some(name) = entry.enclosed_name() else {
            bail!("{shown} has a file {:?}, which is no path inside a folder", entry.name());
        };
        if entry.is_dir() || entry.is_symlink() || name.starts_with("__MACOSX") {
            continue;
        }
        let (target, mut entry) = (new.place(folder, &name)?, entry.take(left));
        let copy = |file: &mut File| {
            io::copy(&mut entry, file)?;
            match entry.limit() {
                0 => Err(io::Error::other(format!(
                    "all of it is more than {} MB, which is no such set",
                    most >> 20
                ))),
                _ => Ok(()),
            }
        };
        let written = atomic_file::fill(&target, copy);
        written.with_context(|| format!("failed to unpack {} from {shown}", name.display()))?;
        left = entry.limit();
    }
    new.commit()
}

/// The top-level folders of an archive that did not exist before, or were empty.
#[derive(Default)]
struct NewFolders(BTreeMap<PathBuf, Option<PartialDir>>);

impl NewFolders {
    /// Returns where to write the file `name` of an archive in `folder`.
    fn place(&mut self, folder: &Path, name: &Path) -> anyhow::Result<PathBuf> {
        let mut parts = name.iter();
        let top = folder.join(parts.next().context("a file of an archive has a name")?);
        let within = parts.as_path();
        if within.as_os_str().is_empty() {
            return Ok(top); // a top-level file
        }
        let made = match self.0.entry(top.clone()) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(match PartialDir::create(&top) {
                Ok(made) => Some(made),
                Err(FileError::NotEmpty { .. }) => None,
                Err(error) => return Err(error.into()),
            }),
        };
        Ok(made.as_ref().map_or(top.as_path(), PartialDir::path).join(within))
    }

    fn commit(self) -> anyhow::Result<()> {
        self.0.into_values().flatten().try_for_each(|made| Ok(made.commit()?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn zip(path: &Path, files: &[(&str, &[u8])]) {
        let mut writer = ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in files {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn files_lie_beside_the_archive() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("set.zip");
        let long = "问".repeat(100_000);
        zip(&path, &[("dev/法律.csv", long.as_bytes()), ("core.yaml", b"x"), ("__MACOSX/._core", b"")]);
        for _ in 0..2 {
            unzip(&path).unwrap();
            assert_eq!(fs::read_to_string(temp.path().join("dev/法律.csv")).unwrap(), long);
            assert_eq!(fs::read(temp.path().join("core.yaml")).unwrap(), b"x");
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3);
        }
    }

    #[test]
    fn a_folder_is_there_once_it_is_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("set.zip");
        let names = || fs::read_dir(temp.path()).unwrap().count();
        zip(&path, &[("dev/a.csv", b"a"), ("dev/in/b.csv", b"b"), ("val/c.csv", &vec![b'c'; 3 << 20])]);
        unzip_within(&path, 2 << 20).unwrap_err();
        assert_eq!(names(), 1, "the archive alone");
        // Leftovers of a killed process are removed, and an existing folder is completed.
        fs::create_dir_all(temp.path().join("dev.partial/content")).unwrap();
        fs::write(temp.path().join("dev.partial/.nanochat.lock"), "").unwrap();
        fs::write(temp.path().join("dev.partial/content/old"), "").unwrap();
        fs::create_dir(temp.path().join("val")).unwrap();
        fs::write(temp.path().join("val/mine"), "").unwrap();
        unzip(&path).unwrap();
        assert_eq!((names(), fs::read_dir(temp.path().join("dev")).unwrap().count()), (3, 2));
        assert!(temp.path().join("val/mine").exists() && temp.path().join("val/c.csv").exists());
    }

    #[test]
    fn what_is_no_honest_archive_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let (path, inner) = (temp.path().join("in/set.zip"), temp.path().join("in"));
        fs::create_dir(&inner).unwrap();
        zip(&path, &[("../out.csv", b"x")]);
        assert!(unzip(&path).unwrap_err().to_string().contains("no path inside"));
        assert!(!temp.path().join("out.csv").exists());
        zip(&path, &[("a.csv", &vec![b'a'; 100_000])]);
        let mut bytes = fs::read(&path).unwrap();
        for cut in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(format!("{:#}", unzip(&path).unwrap_err()).contains("delete it"), "{cut}");
        }
        // A zip bomb: the unpacked size is counted while unpacking.
        zip(&path, &[("b.csv", b"b"), ("a.csv", &vec![b'a'; 3 << 20])]);
        let error = format!("{:#}", unzip_within(&path, 2 << 20).unwrap_err());
        assert!(error.contains("a.csv") && error.contains("more than 2 MB"), "{error}");
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 2, "the archive and what came before");
        bytes[60] ^= 0xff; // inside the compressed text
        fs::write(&path, &bytes).unwrap();
        assert!(unzip(&path).is_err());
        assert!(!inner.join("a.csv").exists());
    }
}
