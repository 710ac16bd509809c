//! Downloads one file into `<name>.part`, resumes after an interruption, verifies it, and renames it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use nanochat::files::atomic_file::sync_names_beside;
use nanochat::files::file_lock::try_lock;

use super::checksum::Checksum;
use super::http::{Failure, HttpClient, HttpResponse, TRIES, passing, shown, trying_again};

/// The number of times that a complete file may fail its checksum.
const WRONG: u32 = 2;
/// The suffix of an incomplete file.
const PART: &str = ".part";
/// The suffix of the note beside it, with the version (entity tag or date) that it is a part of.
const VERSION: &str = ".version";

/// A file to download, and what is known about it beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub url: String,
    pub size: Option<u64>,
    pub checksum: Option<Checksum>,
}

/// Downloads `remote` to `path`, whose folder is created if missing. An existing file of the right size is kept.
/// Progress counts bytes.
pub fn fetch(
    client: &HttpClient,
    remote: &Remote,
    path: &Path,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    if is_there(remote, path, progress) {
        sweep(path);
        return Ok(());
    }
    let mut part = PartialFile::open(path, remote.clone(), progress)?;
    // Another process may have finished it in the meantime; then our part is new and empty.
    if part.len == 0 && is_there(remote, path, progress) {
        drop(part);
        sweep(path);
        return Ok(());
    }
    // Only a new maximum counts as progress: a server without ranges starts again each time.
    let (mut failures, mut most) = (0, part.len);
    loop {
        let (reason, wait) = match part.go_on(client).and_then(|()| part.check()) {
            Ok(()) => return part.finish(path),
            Err(Failure::Lasting(reason)) => bail!(reason),
            Err(Failure::Passing { reason, wait }) => (reason, wait),
        };
        failures = if part.len > most { 1 } else { failures + 1 };
        most = most.max(part.len);
        if failures >= TRIES || part.wrong >= WRONG {
            let times = failures.max(part.wrong);
            return Err(anyhow!("{reason}; gave up after {times} tries, run the same command to go on"));
        }
        let pause = client.pause(failures, wait);
        progress.suspend(|| eprintln!("{}", trying_again(&reason, pause)));
        std::thread::sleep(pause);
    }
}

fn is_there(remote: &Remote, path: &Path, progress: &ProgressBar) -> bool {
    let found = path.metadata().map(|found| found.len());
    let there = found.as_ref().is_ok_and(|found| remote.size.is_none_or(|size| size == *found));
    if there {
        progress.inc(found.unwrap_or(0));
    }
    there
}

/// Removes leftovers beside a finished file: the version note of a process killed after renaming, or the empty part of
/// a process that came too late. The part that another process is writing stays.
fn sweep(path: &Path) {
    let part = with_suffix(path, PART);
    let held = try_lock(&part, |path| File::options().write(true).open(path));
    match held {
        Ok(Some(file)) if file.metadata().is_ok_and(|part| part.len() == 0) => {
            let _ = fs::remove_file(&part);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        _ => return,
    }
    let _ = fs::remove_file(with_suffix(&part, VERSION));
}

/// A partial download.
struct PartialFile<'p> {
    remote: Remote,
    path: PathBuf,
    file: File,
    len: u64,
    /// The size of the whole file, from the list or from a response.
    size: Option<u64>,
    /// The number of times that the complete file had a wrong checksum.
    wrong: u32,
    progress: &'p ProgressBar,
}

impl<'p> PartialFile<'p> {
    fn open(path: &Path, remote: Remote, progress: &'p ProgressBar) -> anyhow::Result<PartialFile<'p>> {
        let folder = path.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let part = with_suffix(path, PART);
        let open =
            |path: &Path| File::options().read(true).write(true).create(true).truncate(false).open(path);
        let locked = try_lock(&part, open).with_context(|| format!("failed to open {}", part.display()))?;
        let Some(mut file) = locked else {
            bail!("{} is being downloaded by another process", path.display());
        };
        let len = file.seek(SeekFrom::End(0)).with_context(|| part.display().to_string())?;
        progress.inc(len);
        Ok(PartialFile { size: remote.size, remote, path: part, file, len, wrong: 0, progress })
    }

    /// Downloads what is missing. If it returns Ok, the file has the expected size.
    fn go_on(&mut self, client: &HttpClient) -> Result<(), Failure> {
        if self.size.is_some_and(|size| self.len > size) {
            self.restart()?;
        }
        if self.size == Some(self.len) {
            return Ok(());
        }
        // Without a checksum, only the server can tell whether the file is still the same.
        let version = self.version();
        if self.len > 0 && self.remote.checksum.is_none() && version.is_empty() {
            self.restart()?;
        }
        let mut headers = Vec::new();
        if self.len > 0 {
            headers.push(("range", format!("bytes={}-", self.len)));
            if self.remote.checksum.is_none() {
                headers.push(("if-range", version));
            }
        }
        let mut answer = client.get(&self.remote.url, &headers)?;
        self.begin(&answer)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match answer.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => return Err(self.passing(&format!("stopped at {} bytes ({error})", self.len))),
            };
            if self.size.is_some_and(|size| self.len + n as u64 > size) {
                self.wrong += 1;
                self.restart()?;
                return Err(self.passing("sends more than the size it has"));
            }
            self.file.write_all(&buffer[..n]).map_err(|error| self.disk(error))?;
            self.len += n as u64;
            self.progress.inc(n as u64);
        }
        match self.size {
            Some(size) if self.len < size => {
                Err(self.passing(&format!("ended at {} of {size} bytes", self.len)))
            }
            _ => Ok(()),
        }
    }

    /// Prepares to append the response's bytes: sets the offset and the total size.
    fn begin(&mut self, answer: &HttpResponse) -> Result<(), Failure> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        if let Some(coding) = answer.header("content-encoding").filter(|coding| *coding != "identity")
            && !self.remote.url.ends_with(".gz")
        {
            let url = shown(&self.remote.url);
            return Err(Failure::Lasting(format!(
                "{url} is sent packed ({coding}), though it was asked for as it is"
            )));
        }
        let total = match answer.status {
            206 => {
                let range = answer.header("content-range").and_then(|value| value.strip_prefix("bytes "));
                let (from, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
                let from = from.split_once('-').and_then(|(from, _)| number(from));
                if from != Some(self.len) {
                    self.restart()?;
                    return Err(self.passing("sent another part than it was asked for"));
                }
                // Some servers support ranges but ignore If-Range.
                let (named, ours) = (version_of(answer), self.version());
                if self.remote.checksum.is_none() && self.len > 0 && !named.is_empty() && named != ours {
                    self.restart()?;
                    return Err(self.passing("is another file now than the one that a part is here of"));
                }
                number(total)
            }
            416 => {
                self.restart()?;
                return Err(self.passing("has no more bytes"));
            }
            _ => {
                self.restart()?; // the response is the whole file
                self.remember_version(answer)?;
                self.learn_checksum(answer);
                answer.header("content-length").and_then(number)
            }
        };
        if let (Some(expected), Some(total)) = (self.remote.size, total)
            && expected != total
        {
            return Err(self.passing(&format!("has {total} bytes instead of {expected}")));
        }
        self.size = total.or(self.remote.size);
        Ok(())
    }

    /// Takes the SHA-256 that the hub sends when it redirects to a large file.
    fn learn_checksum(&mut self, answer: &HttpResponse) {
        let named = answer.header("x-linked-etag").map(|etag| etag.trim_matches('"').to_lowercase());
        if let Some(sha) = named.filter(|sha| sha.len() == 64 && sha.bytes().all(|b| b.is_ascii_hexdigit())) {
            self.remote.checksum.get_or_insert(Checksum::Sha256(sha));
        }
    }

    fn remember_version(&mut self, answer: &HttpResponse) -> Result<(), Failure> {
        fs::write(self.version_path(), version_of(answer)).map_err(|error| self.disk(error))
    }

    /// Returns the version of the file that the part belongs to; empty if the server sent none.
    fn version(&self) -> String {
        let version = fs::read_to_string(self.version_path()).unwrap_or_default();
        if version.chars().all(|c| (' '..='~').contains(&c)) { version } else { String::new() }
    }

    fn check(&mut self) -> Result<(), Failure> {
        let Some(checksum) = self.remote.checksum.clone() else { return Ok(()) };
        let (expected, found) = (checksum.expected(), checksum.found(&mut self.file, self.len));
        let found = found.map_err(|error| self.disk(error))?;
        if found == *expected {
            return Ok(());
        }
        self.wrong += 1;
        self.restart()?;
        Err(self.passing(&format!("arrived with the checksum {found} instead of {expected}")))
    }

    fn finish(self, path: &Path) -> anyhow::Result<()> {
        let what = || format!("failed to write {}", path.display());
        self.file.sync_all().with_context(what)?;
        fs::rename(&self.path, path).and_then(|()| sync_names_beside(path)).with_context(what)?;
        let _ = fs::remove_file(self.version_path()); // missing if the part was already complete
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Failure> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|error| self.disk(error))?;
        self.progress.set_position(self.progress.position().saturating_sub(self.len));
        self.len = 0;
        self.size = self.remote.size;
        Ok(())
    }

    fn version_path(&self) -> PathBuf {
        with_suffix(&self.path, VERSION)
    }

    fn passing(&self, what: &str) -> Failure {
        passing(format!("{} {what}", shown(&self.remote.url)))
    }

    fn disk(&self, error: std::io::Error) -> Failure {
        let path = self.path.display();
        Failure::Lasting(format!(
            "failed to write {path}: {error}; what is there stays, run the same command to go on"
        ))
    }
}

/// Returns the version of a file: a strong entity tag, or else its date.
fn version_of(answer: &HttpResponse) -> &str {
    let strong = answer.header("etag").filter(|etag| !etag.starts_with("W/"));
    strong.or(answer.header("last-modified")).unwrap_or_default()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
