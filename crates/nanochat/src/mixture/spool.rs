//! Conversations of a file of JSON lines, by index. Opening checks every line, so that a bad one is found
//! before training; the lines lie in an unpacked temporary file, of which memory holds the line starts alone.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::Conversations;
use crate::conversation::{Conversation, parse_conversation};
use crate::dataset::{DataError, at};
use crate::lines::Lines;

/// Lines checked in parallel before they are written.
const BATCH: usize = 4_096;

pub struct JsonLines {
    path: PathBuf,
    spool: Spool,
    /// Where each line starts; one more for the end.
    starts: Vec<u64>,
    numbers: Vec<u32>,
}

impl JsonLines {
    /// The conversations of `path` (.jsonl, .gz, .zst); temporary space is taken in `temporary`.
    pub fn open(path: &Path, temporary: &Path) -> Result<JsonLines, DataError> {
        let spool = Spool::create(temporary)?;
        let mut writer = BufWriter::with_capacity(1 << 20, &spool.file);
        let (mut starts, mut numbers) = (vec![0], Vec::new());
        let mut lines = Lines::open(path)?;
        loop {
            let batch: Vec<(usize, Vec<u8>)> = lines.by_ref().take(BATCH).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                break;
            }
            batch
                .par_iter()
                .map(|(line, bytes)| parse(path, *line, bytes).map(drop))
                .collect::<Result<(), _>>()?;
            for (line, bytes) in batch {
                writer.write_all(&bytes).map_err(at(&spool.path))?;
                starts.push(starts[numbers.len()] + bytes.len() as u64);
                numbers.push(line as u32);
            }
        }
        writer.flush().map_err(at(&spool.path))?;
        drop(writer);
        Ok(JsonLines { path: path.into(), spool, starts, numbers })
    }
}

impl Conversations for JsonLines {
    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn get(&self, index: usize) -> Result<Conversation, DataError> {
        let (start, end) = (self.starts[index], self.starts[index + 1]);
        let mut bytes = vec![0; (end - start) as usize];
        self.spool.read(start, &mut bytes).map_err(at(&self.spool.path))?;
        parse(&self.path, self.numbers[index] as usize, &bytes)
    }
}

fn parse(path: &Path, line: usize, bytes: &[u8]) -> Result<Conversation, DataError> {
    parse_conversation(bytes).map_err(|reason| DataError::Line { path: path.into(), line, reason })
}

/// A temporary file without a name (where the system allows it), gone when the process is.
struct Spool {
    path: PathBuf,
    file: File,
    /// Held while the place in the file is moved and read from.
    reading: Mutex<()>,
}

impl Spool {
    fn create(folder: &Path) -> Result<Spool, DataError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name =
            format!("conversations.{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(name);
        fs::create_dir_all(folder).map_err(at(folder))?;
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).truncate(true).open(&path).map_err(at(&path))?;
        if cfg!(unix) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
        Ok(Spool { path, file, reading: Mutex::new(()) })
    }

    fn read(&self, start: u64, into: &mut [u8]) -> std::io::Result<()> {
        let _reading = self.reading.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(into)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if cfg!(not(unix)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_by_index_and_a_bad_one_is_found_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("chat.jsonl.zst");
        let line = |i: usize| {
            format!(r#"[{{"role":"user","content":"问 {i}"}},{{"role":"assistant","content":"a"}}]"#)
        };
        let text: String = (0..5_000).map(|i| line(i) + "\n\n").collect();
        fs::write(&path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        let lines = JsonLines::open(&path, temp.path()).unwrap();
        assert_eq!(lines.len(), 5_000);
        for i in [4_999, 0, 17, 4_096] {
            assert_eq!(lines.get(i).unwrap().messages[0].content.text(), format!("问 {i}"));
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1); // the temporary file has no name
        let path = temp.path().join("bad.jsonl");
        fs::write(&path, format!("{}\n{{}}\n", line(0))).unwrap();
        let error = JsonLines::open(&path, temp.path()).err().unwrap().to_string();
        assert!(error.contains("bad.jsonl, line 2: not a conversation"), "{error}");
    }
}
