//! C-Eval (Huang et al. 2023): Chinese exam questions of 52 subjects, four choices. The answers of its test set are
//! secret, so the test here is its `val`; training items are its `dev`.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question};
use super::{Split, TaskError, files, sets};

/// The files of the solved questions.
pub const DEV: &[&str] = &["ceval-exam/*/dev-*.parquet", "ceval/dev/*_dev.csv", "ceval-exam/dev/*_dev.csv"];
pub const VAL: &[&str] = &["ceval-exam/*/val-*.parquet", "ceval/val/*_val.csv", "ceval-exam/val/*_val.csv"];
pub const COLUMNS: [&str; 2] = ["question", "answer"];

pub fn open(split: Split, folder: &Path) -> Result<MultipleChoice, TaskError> {
    let patterns = if split == Split::Train { DEV } else { VAL };
    let files = files::find("C-Eval", split, folder, patterns, "the hub's ceval/ceval-exam")?;
    let questions = sets::shuffled(&files, |row| Question::from_columns(row, COLUMNS))?;
    Ok(MultipleChoice::new("C-Eval", questions))
}
