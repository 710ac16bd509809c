//! C-Eval (Huang et al. 2023): Chinese exam questions of 52 subjects, four choices. The answers of its test set are
//! secret, so the test here is its `val`; training items are its `dev`.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question};
use super::{Split, TaskError, files, sets};

pub fn open(split: Split, folder: &Path) -> Result<MultipleChoice, TaskError> {
    let patterns: &[&str] = match split {
        Split::Train => &["ceval-exam/*/dev-*.parquet", "ceval/dev/*_dev.csv", "ceval-exam/dev/*_dev.csv"],
        Split::Test => &["ceval-exam/*/val-*.parquet", "ceval/val/*_val.csv", "ceval-exam/val/*_val.csv"],
    };
    let files = files::find("C-Eval", split, folder, patterns, "the hub's ceval/ceval-exam")?;
    let questions = sets::shuffled(&files, |row| Question::from_columns(row, ["question", "answer"]))?;
    Ok(MultipleChoice { name: "C-Eval".into(), questions })
}
