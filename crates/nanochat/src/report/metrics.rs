//! A run's numbers over time: `metrics.jsonl`, one object a line, and the same as a TensorBoard event file.
//!
//! The lines are the truth. When a run resumes, those beyond its step are dropped and the event file is
//! made anew from the rest, so a killed and resumed run has every step once. The event file is a TFRecord
//! of `Event` messages (tensorflow/core/util/event.proto), of which the few fields needed are encoded here.

use crate::files::atomic_file;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub const METRICS_FILE: &str = "metrics.jsonl";
const EVENT_FILE_PREFIX: &str = "events.out.tfevents.";

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub step: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// Numbers by name; null where the number was not finite.
    #[serde(flatten)]
    pub values: Map<String, Value>,
}

impl Metrics {
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("cannot use the metrics in {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("line {line} of {} is no metrics object: {error}", path.display())]
    Line { path: PathBuf, line: usize, error: serde_json::Error },
}

/// Appends to both files of one run; every line is in the operating system's hands when `log` returns.
pub struct MetricsWriter {
    folder: PathBuf,
    lines: File,
    events: File,
}

impl MetricsWriter {
    /// Starts anew in `folder`, or after `resume_step`, the last step whose metrics stay.
    pub fn open(folder: &Path, resume_step: Option<u64>) -> Result<MetricsWriter, MetricsError> {
        let path = folder.join(METRICS_FILE);
        let (mut lines, mut events) = (Vec::new(), first_event());
        if let Some(last) = resume_step.filter(|_| path.exists()) {
            for (line, metrics) in read_lines(&path)?.iter().filter(|(_, metrics)| metrics.step <= last) {
                lines.extend_from_slice(line);
                lines.push(b'\n');
                events.extend(event(metrics));
            }
        }
        let files = || {
            atomic_file::write(&path, &lines)?;
            let events_path = replace_event_file(folder, &events)?;
            let append = |path: &Path| OpenOptions::new().append(true).open(path);
            Ok((append(&path)?, append(&events_path)?))
        };
        let (lines, events) = files().map_err(io_error(folder))?;
        Ok(MetricsWriter { folder: folder.to_path_buf(), lines, events })
    }

    /// One line. The names `step` and `time` are taken.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), MetricsError> {
        let values = values.iter().map(|(name, value)| (name.to_string(), Value::from(*value))).collect();
        let metrics = Metrics { step, time: now(), values };
        let mut line = serde_json::to_vec(&metrics).expect("string keys and numbers always serialize");
        line.push(b'\n');
        let mut write = || {
            self.lines.write_all(&line)?;
            self.events.write_all(&event(&metrics))
        };
        write().map_err(io_error(&self.folder))
    }
}

/// All lines of a `metrics.jsonl`, in order. A last line cut short by a kill is left out.
pub fn read_metrics(path: &Path) -> Result<Vec<Metrics>, MetricsError> {
    Ok(read_lines(path)?.into_iter().map(|(_, metrics)| metrics).collect())
}

/// Each line as it was written (rewriting its numbers could change their digits) and as it is read.
fn read_lines(path: &Path) -> Result<Vec<(Vec<u8>, Metrics)>, MetricsError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let mut lines = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let metrics = serde_json::from_slice(line).map_err(|error| MetricsError::Line {
            path: path.to_path_buf(),
            line: index + 1,
            error,
        })?;
        lines.push((line.to_vec(), metrics));
    }
    Ok(lines)
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> MetricsError {
    move |error| MetricsError::Io { path: path.to_path_buf(), error }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Writes the folder's event file; those of earlier processes go, since this one holds their events.
fn replace_event_file(folder: &Path, events: &[u8]) -> io::Result<PathBuf> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_string());
    let path = folder.join(format!("{EVENT_FILE_PREFIX}{:010}.{}", now() as u64, host.trim()));
    atomic_file::write(&path, events)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(EVENT_FILE_PREFIX) && entry.path() != path {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(path)
}

/// The record every event file starts with.
fn first_event() -> Vec<u8> {
    let mut message = Vec::new();
    put_double(&mut message, 1, now());
    put_bytes(&mut message, 3, b"brain.Event:2"); // file_version
    record(&message)
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } … } }`
fn event(metrics: &Metrics) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in &metrics.values {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, tag.as_bytes());
        put_float(&mut message, 2, value.as_f64().unwrap_or(f64::NAN) as f32);
        put_bytes(&mut summary, 1, &message);
    }
    let mut message = Vec::new();
    put_double(&mut message, 1, metrics.time);
    put_varint(&mut message, 2 << 3); // wire type 0: varint
    put_varint(&mut message, metrics.step);
    put_bytes(&mut message, 5, &summary);
    record(&message)
}

/// TFRecord framing: length, its checksum, the data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let parts: [&[u8]; 4] =
        [&length, &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()];
    parts.concat()
}

/// The format masks its CRC-32C, because a checksum of data that holds checksums is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn put_double(message: &mut Vec<u8>, field: u64, value: f64) {
    put_varint(message, field << 3 | 1);
    message.extend(value.to_le_bytes());
}

fn put_float(message: &mut Vec<u8>, field: u64, value: f32) {
    put_varint(message, field << 3 | 5);
    message.extend(value.to_le_bytes());
}

fn put_bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(message, field << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(folder: &Path) -> Vec<u64> {
        read_metrics(&folder.join(METRICS_FILE)).unwrap().iter().map(|metrics| metrics.step).collect()
    }

    fn event_files(folder: &Path) -> Vec<PathBuf> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.to_string_lossy().contains(EVENT_FILE_PREFIX)).collect()
    }

    /// Data of each record, after its checksums were checked.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let data = bytes[12..12 + length].to_vec();
            assert_eq!(bytes[..16 + length], record(&data));
            bytes = &bytes[16 + length..];
            records.push(data);
        }
        records
    }

    #[test]
    fn lines_hold_what_was_logged() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(dir.path(), None).unwrap();
        writer.log(1, &[("loss", 2.5), ("lr", 0.02)]).unwrap();
        writer.log(2, &[("loss", f64::NAN)]).unwrap();
        let read = read_metrics(&dir.path().join(METRICS_FILE)).unwrap();
        assert_eq!((read[0].step, read[0].get("loss"), read[0].get("lr")), (1, Some(2.5), Some(0.02)));
        assert_eq!((read[1].get("loss"), read[1].get("lr")), (None, None));
        let text = fs::read_to_string(dir.path().join(METRICS_FILE)).unwrap();
        assert!(text.ends_with("\"loss\":null}\n"), "{text}");
    }

    #[test]
    fn a_resumed_run_has_every_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(dir.path(), None).unwrap();
        (1..=5).for_each(|step| writer.log(step, &[("loss", 0.1 * step as f64)]).unwrap());
        drop(writer);
        let path = dir.path().join(METRICS_FILE);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, before.clone() + "{\"step\":6,\"ti\u{4eba}").unwrap(); // killed while it wrote
        assert_eq!(steps(dir.path()), [1, 2, 3, 4, 5]);

        let mut writer = MetricsWriter::open(dir.path(), Some(3)).unwrap();
        writer.log(4, &[("loss", 0.7)]).unwrap();
        assert_eq!(steps(dir.path()), [1, 2, 3, 4]);
        let kept: String = before.split_inclusive('\n').take(3).collect();
        assert!(fs::read_to_string(&path).unwrap().starts_with(&kept));
        let files = event_files(dir.path());
        assert_eq!(files.len(), 1);
        assert_eq!(records(&fs::read(&files[0]).unwrap()).len(), 1 + 4);

        drop(MetricsWriter::open(dir.path(), None).unwrap());
        assert!(steps(dir.path()).is_empty());
    }

    #[test]
    fn a_broken_line_within_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        fs::write(&path, "{\"step\":1,\"time\":0}\nnoise\n{\"step\":3,\"time\":0}\n").unwrap();
        let error = read_metrics(&path).unwrap_err().to_string();
        assert!(error.starts_with("line 2 of "), "{error}");
    }

    #[test]
    fn framing_and_message_are_as_tensorboard_reads_them() {
        let values = Map::from_iter([("loss".to_string(), Value::from(1.5))]);
        let bytes = event(&Metrics { step: 300, time: 2.0, values });
        let data = [
            [9, 0, 0, 0, 0, 0, 0, 0, 0x40].as_slice(), // wall_time: 2.0
            &[0x10, 0xAC, 0x02],                       // step: 300
            &[0x2A, 13, 0x0A, 11],                     // summary { value {
            &[0x0A, 4, b'l', b'o', b's', b's'],        // tag
            &[0x15, 0, 0, 0xC0, 0x3F],                 // simple_value: 1.5 } }
        ]
        .concat();
        assert_eq!(bytes[..8], 27u64.to_le_bytes());
        assert_eq!(bytes[12..39], data);
        // CRC-32C's check value (of "123456789") is E3069283; masking rotates and adds.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(masked_crc(b"123456789"), 0x2507_C60Du32.wrapping_add(0xA282_EAD8));
    }
}
