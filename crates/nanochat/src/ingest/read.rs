//! The documents of one file.

use std::fs::File;
use std::io::Read;

use indicatif::ProgressBar;
use serde_json::Value;

use super::{InputFile, Kind};
use crate::dataset::{CHUNK_ROWS, DataError, ParquetTexts, at};
use crate::lines::{Lines, MAX_LINE, unpack};

/// Gives each document of `file` to `take`, as the bytes it is; an error of `take` ends it. `field` names the
/// JSON field or parquet column; with `split_lines` each line of a text file is a document.
pub fn documents(
    file: &InputFile,
    field: &str,
    split_lines: bool,
    progress: &ProgressBar,
    take: &mut impl FnMut(&[u8]) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let InputFile { path, kind } = file;
    let open = || {
        let file = File::open(path).map_err(at(path))?;
        unpack(path, progress.wrap_read(file))
    };
    let bad = |reason: String| DataError::BadFile { path: path.clone(), reason };
    match kind {
        Kind::Text if split_lines => {
            for line in Lines::new(path, open()?) {
                take(&line?.1)?;
            }
        }
        Kind::Text => {
            let mut bytes = Vec::new();
            open()?.take(MAX_LINE + 1).read_to_end(&mut bytes).map_err(at(path))?;
            if bytes.len() as u64 > MAX_LINE {
                let limit = MAX_LINE >> 20;
                return Err(bad(format!("as one document it is over {limit} MiB; use --split-lines")));
            }
            take(&bytes)?;
        }
        Kind::JsonLines => {
            for line in Lines::new(path, open()?) {
                let (line, bytes) = line?;
                let Ok(json) = std::str::from_utf8(&bytes) else {
                    take(&bytes)?; // whoever takes it sees that it is not UTF-8
                    continue;
                };
                let text = field_of(json, field).map_err(|reason| DataError::Line {
                    path: path.clone(),
                    line,
                    reason,
                })?;
                take(text.as_bytes())?;
            }
        }
        Kind::Parquet => {
            let texts = ParquetTexts::open(path, field).map_err(bad)?;
            for row_group in 0..texts.num_row_groups() {
                let mut rows = texts.rows(row_group, 0).map_err(bad)?;
                loop {
                    let values = rows.next_rows(CHUNK_ROWS).map_err(bad)?;
                    if values.is_empty() {
                        break;
                    }
                    for value in values {
                        take(value.as_deref().unwrap_or_default())?;
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
