//! The documents of one file.

use std::fs::File;
use std::io::Read;

use indicatif::ProgressBar;
use serde_json::Value;

use super::sink::Sink;
use super::{IngestOptions, InputFile, Kind};
use crate::dataset::{CHUNK_ROWS, DataError, ParquetTexts, at};
use crate::lines::{Lines, MAX_LINE, unpack};

pub fn documents(
    file: &InputFile,
    options: &IngestOptions,
    progress: &ProgressBar,
    sink: &mut Sink,
) -> Result<(), DataError> {
    let InputFile { path, kind } = file;
    let open = || {
        let file = File::open(path).map_err(at(path))?;
        unpack(path, progress.wrap_read(file))
    };
    let bad = |reason: String| DataError::BadFile { path: path.clone(), reason };
    match kind {
        Kind::Text if options.split_lines => {
            for line in Lines::new(path, open()?) {
                sink.add_bytes(&line?.1)?;
            }
        }
        Kind::Text => {
            let mut bytes = Vec::new();
            open()?.take(MAX_LINE + 1).read_to_end(&mut bytes).map_err(at(path))?;
            if bytes.len() as u64 > MAX_LINE {
                let limit = MAX_LINE >> 20;
                return Err(bad(format!("as one document it is over {limit} MiB; use --split-lines")));
            }
            sink.add_bytes(&bytes)?;
        }
        Kind::JsonLines => {
            for line in Lines::new(path, open()?) {
                let (line, bytes) = line?;
                let Ok(json) = std::str::from_utf8(&bytes) else {
                    sink.add_bytes(&bytes)?; // counts it
                    continue;
                };
                let text = field_of(json, &options.field).map_err(|reason| DataError::Line {
                    path: path.clone(),
                    line,
                    reason,
                })?;
                sink.add_text(&text)?;
            }
        }
        Kind::Parquet => {
            let texts = ParquetTexts::open(path, &options.field).map_err(bad)?;
            for row_group in 0..texts.num_row_groups() {
                let mut rows = texts.rows(row_group, 0).map_err(bad)?;
                loop {
                    let values = rows.next_rows(CHUNK_ROWS).map_err(bad)?;
                    if values.is_empty() {
                        break;
                    }
                    for value in values {
                        sink.add_bytes(value.as_ref().map_or(b"", |value| value.data()))?;
                    }
                }
            }
            progress.inc(path.metadata().map_or(0, |metadata| metadata.len()));
        }
    }
    Ok(())
}

/// The text in `field` of one JSON line; nothing for null.
fn field_of(json: &str, field: &str) -> Result<String, String> {
    let chat = "it is a conversation, not text: finetuning reads such files as they are";
    match serde_json::from_str(json).map_err(|error| format!("not JSON ({error})"))? {
        Value::Object(mut object) => match object.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Null) => Ok(String::new()),
            Some(_) => Err(format!("the field `{field}` is not a string")),
            None if object.contains_key("messages") || object.contains_key("conversations") => {
                Err(chat.into())
            }
            None => {
                let names: Vec<&str> = object.keys().take(10).map(String::as_str).collect();
                Err(format!("no field `{field}`; choose one with --field: {}", names.join(", ")))
            }
        },
        Value::Array(items) if items.iter().any(Value::is_object) => Err(chat.into()),
        _ => Err(format!("not an object with a field `{field}`")),
    }
}
