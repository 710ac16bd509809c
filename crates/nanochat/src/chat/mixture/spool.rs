//! The conversations of a JSON file, by index. Opening checks every one, so that errors are found before training;
//! their texts are kept in an uncompressed temporary file, of which only the offsets are in memory.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::Conversations;
use crate::conversation::{Conversation, Example, ExamplesError, Told, parse};
use crate::files::file_error::{FileError, at};
use crate::files::json_records::{JsonPlace, JsonRecords};
use crate::files::lines::BadLines;

/// The number of texts that are checked in parallel before they are written.
const BATCH: usize = 4_096;
/// The bytes of such a batch, so that long texts do not fill the memory.
const BATCH_BYTES: usize = 64 << 20;

pub struct JsonFile {
    path: PathBuf,
    spool: Spool,
    /// The offset of each text; one more for the end.
    starts: Vec<u64>,
    /// The line of the file in which each text began.
    lines: Vec<u32>,
    told: Told,
}

impl JsonFile {
    /// The conversations of `path` (.json, .jsonl, .gz, .zst) but those that weigh nothing; temporary space is taken in
    /// `temporary`.
    pub fn open(path: &Path, bad_lines: BadLines, temporary: &Path) -> Result<JsonFile, ExamplesError> {
        let spool = Spool::create(temporary)?;
        let mut writer = BufWriter::with_capacity(1 << 20, &spool.file);
        let (mut starts, mut lines, mut told) = (vec![0], Vec::new(), Told::default());
        let mut records = JsonRecords::open(path)?;
        loop {
            let batch: Vec<(JsonPlace, Vec<u8>)> = batch(&mut records)?;
            if batch.is_empty() {
                break;
            }
            let parsed: Vec<_> = batch.par_iter().map(|(_, text)| parse(text)).collect();
            for ((place, text), parsed) in batch.into_iter().zip(parsed) {
                let parsed = parsed.map_err(|reason| place.error(path, reason));
                let Some(example) = told.take(place, parsed, bad_lines)? else { continue };
                if !example.is_learned() {
                    told.leave_out(place);
                    continue;
                }
                writer.write_all(&text).map_err(at(&spool.path))?;
                starts.push(starts[lines.len()] + text.len() as u64);
                lines.push(place.line as u32);
            }
        }
        writer.flush().map_err(at(&spool.path))?;
        drop(writer);
        told.check(path)?;
        Ok(JsonFile { path: path.into(), spool, starts, lines, told })
    }
}

/// The next texts to be checked together.
fn batch(records: &mut JsonRecords) -> Result<Vec<(JsonPlace, Vec<u8>)>, FileError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let Some(record) = records.next().transpose()? else { break };
        bytes += record.1.len();
        batch.push(record);
    }
    Ok(batch)
}

impl Conversations for JsonFile {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn get(&self, index: usize) -> Result<Conversation, FileError> {
        Ok(self.example(index)?.conversation)
    }

    fn example(&self, index: usize) -> Result<Example, FileError> {
        let (start, end) = (self.starts[index], self.starts[index + 1]);
        let mut text = vec![0; (end - start) as usize];
        self.spool.read(start, &mut text).map_err(at(&self.spool.path))?;
        let place = JsonPlace { line: self.lines[index] as usize, element: None };
        Ok(parse(&text).map_err(|reason| place.error(&self.path, reason))?.example)
    }

    fn weighed(&self) -> usize {
        self.told.weighed()
    }

    fn sentences(&self) -> Vec<String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.told.sentences().into_iter().map(|sentence| format!("{name}: {sentence}")).collect()
    }
}

/// A temporary file without a name (where the system allows it), deleted when the process ends.
struct Spool {
    path: PathBuf,
    file: File,
    /// Held while the file position is set and read from.
    reading: Mutex<()>,
}

impl Spool {
    fn create(folder: &Path) -> Result<Spool, FileError> {
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
        let lines = JsonFile::open(&path, BadLines::Fail, temp.path()).unwrap();
        assert_eq!(lines.len(), 5_000);
        for i in [4_999, 0, 17, 4_096] {
            assert_eq!(lines.get(i).unwrap().messages[0].content.text(), format!("问 {i}"));
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1); // the temporary file has no name
        let path = temp.path().join("bad.jsonl");
        fs::write(&path, format!("{}\n{{}}\n", line(0))).unwrap();
        let error = JsonFile::open(&path, BadLines::Fail, temp.path()).err().unwrap().to_string();
        assert!(error.contains("bad.jsonl, line 2: not a conversation"), "{error}");
    }
}
