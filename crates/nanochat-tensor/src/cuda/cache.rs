//! A cache on disk for what is slow to compute for a GPU: compiled kernels and chosen algorithms.
//!
//! The first line of a file holds the length and the hash of the bytes that follow. A disk may return other bytes than
//! were written, and neither the driver nor cuBLASLt promises to reject damaged machine code or a damaged algorithm.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The age at which a temporary file counts as left by a killed process. Writing one takes less than a second.
const LEFT: Duration = Duration::from_secs(3600);

/// Returns the folder NANOCHAT_CUDA_CACHE, or else one in the user's cache folder. None if there is neither.
pub fn folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("NANOCHAT_CUDA_CACHE").or_else(|| {
        let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let base = named("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))?;
        Some(base.join("nanochat").join("cuda"))
    })
}

/// Returns the bytes that [`write`] was given, or None if the file is missing or damaged.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let content = bytes.split_off(line + 1);
    (bytes == first_line(&content).as_bytes()).then_some(content)
}

/// Writes a file through a temporary sibling, so that a reader finds a whole file or none. Errors are ignored: what is
/// not cached is computed again at the next start.
pub(super) fn write(path: &Path, content: &[u8]) {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let bytes = [first_line(content).as_bytes(), content].concat();
    let written =
        path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&temporary, bytes));
    if written.and_then(|()| fs::rename(&temporary, path)).is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

/// Removes the temporary files that killed processes left in a cache folder.
pub(super) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_left) {
        let _ = fs::remove_file(entry.path());
    }
}

/// Whether a file is old and named like the temporary files of [`write`].
fn is_left(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let process = name.to_str().and_then(|name| name.strip_suffix(".tmp")?.rsplit_once('.'));
    let is_ours = process.is_some_and(|(_, process)| process.parse::<u32>().is_ok());
    let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
    is_ours && age.is_ok_and(|age| age.is_ok_and(|age| age > LEFT))
}

fn first_line(content: &[u8]) -> String {
    format!("{} {:016x}\n", content.len(), hash(content))
}

/// Returns the 64-bit FNV-1a hash.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_processes_left_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["gemm-sm_90-00ff.4321.tmp", "new.4321.tmp", "mine.tmp", "gemm-sm_90-00ff.cubin"] {
            let file = fs::File::create(at(name)).unwrap();
            if name != "new.4321.tmp" {
                file.set_modified(std::time::SystemTime::now() - 2 * LEFT).unwrap();
            }
        }
        sweep(folder.path());
        let left = ["new.4321.tmp", "mine.tmp", "gemm-sm_90-00ff.cubin"];
        assert!(left.iter().all(|name| at(name).exists()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), left.len());
    }

    #[test]
    fn a_file_is_read_as_it_was_written_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("file.cubin");
        assert_eq!(read(&path), None);
        for content in [&b""[..], b"one\ntwo", &[0, 255, 10, 10]] {
            write(&path, content);
            assert_eq!(read(&path).as_deref(), Some(content));
            let whole = fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut other = whole.clone();
                other[at] ^= 4;
                fs::write(&path, &other).unwrap();
                assert_eq!(read(&path), None, "byte {at} of {whole:?} changed");
                fs::write(&path, &whole[..at]).unwrap();
                assert_eq!(read(&path), None, "the first {at} bytes of {whole:?}");
            }
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file is left");
    }
}
