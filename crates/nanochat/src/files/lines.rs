//! Reads the lines of a plain, .gz or .zst file, one at a time and of bounded length.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::file_error::{FileError, at};

/// The maximum bytes of a line, far above any conversation or document. Without it, a file without line ends would fill
/// the memory.
pub const MAX_LINE: u64 = 64 << 20;

/// The treatment of a line of a data file that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BadLines {
    /// The command ends with the file, the line and what is wrong with it.
    #[default]
    Fail,
    /// The line is left out, and counted.
    Skip,
}

/// An iterator over numbered lines, from 1, without line ends; blank lines and a byte order mark are skipped. It ends
/// after an error.
pub struct Lines {
    path: PathBuf,
    reader: Option<Box<dyn BufRead + Send>>,
    number: usize,
}

/// Returns a reader of `file` that decompresses it if its name `path` ends in .gz or .zst.
pub fn unpack(path: &Path, file: impl Read + Send + 'static) -> Result<Box<dyn BufRead + Send>, FileError> {
    let file = BufReader::new(file);
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    Ok(match extension.as_deref().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
        Some("zst") => Box::new(BufReader::new(zstd::Decoder::with_buffer(file).map_err(at(path))?)),
        _ => Box::new(file),
    })
}

impl Lines {
    pub fn open(path: &Path) -> Result<Lines, FileError> {
        let file = File::open(path).map_err(at(path))?;
        Ok(Lines::new(path, unpack(path, file)?))
    }

    /// Reads the lines of `reader`; errors name it `path`.
    pub fn new(path: &Path, reader: Box<dyn BufRead + Send>) -> Lines {
        Lines { path: path.into(), reader: Some(reader), number: 0 }
    }

    fn read_line(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let mut line = Vec::new();
        loop {
            self.number += 1;
            reader.take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.len() as u64 > MAX_LINE {
                return Err(format!("the line is longer than {} MiB", MAX_LINE >> 20));
            }
            if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if !line.trim_ascii().is_empty() {
                line.truncate(line.trim_ascii_end().len());
                return Ok(Some(line));
            }
            line.clear();
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, Vec<u8>), FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read_line() {
            Ok(line) => Some(Ok((self.number, line?))),
            Err(reason) => {
                self.reader = None;
                Some(Err(FileError::Line { path: self.path.clone(), line: self.number, reason }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(path: &Path) -> Vec<(usize, String)> {
        let text = |(number, line)| (number, String::from_utf8(line).unwrap());
        Lines::open(path).unwrap().map(|line| line.map(text).unwrap()).collect()
    }

    #[test]
    fn plain_gz_and_zst_give_the_same_lines() {
        let temp = tempfile::tempdir().unwrap();
        let text = "\u{feff}一\r\n\n  \nthree\nend without newline";
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("a.jsonl"), text).unwrap();
        let mut gz =
            flate2::write::GzEncoder::new(File::create(path("a.jsonl.gz")).unwrap(), Default::default());
        gz.write_all(text.as_bytes()).unwrap();
        gz.finish().unwrap();
        std::fs::write(path("a.jsonl.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        let expected = [(1, "一".into()), (4, "three".into()), (5, "end without newline".into())];
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            assert_eq!(lines(&path(name)), expected, "{name}");
        }
    }

    #[test]
    fn an_endless_line_and_a_damaged_archive_are_errors_with_the_line() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bomb.jsonl.zst");
        let mut bomb = zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
        bomb.write_all(b"[]\n").unwrap();
        let zeros = vec![b'0'; 1 << 20];
        (0..70).for_each(|_| bomb.write_all(&zeros).unwrap());
        bomb.finish().unwrap();
        let error = Lines::open(&path).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("bomb.jsonl.zst, line 2: the line is longer than 64 MiB"), "{error}");

        let cut = std::fs::read(&path).unwrap();
        std::fs::write(&path, &cut[..cut.len() / 2]).unwrap();
        let mut lines = Lines::open(&path).unwrap();
        assert!(lines.by_ref().any(|line| line.is_err()));
        assert!(lines.next().is_none());
    }
}
