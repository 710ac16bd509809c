//! CMMLU (Li et al. 2023): 67 subjects of Chinese knowledge, four choices. Training items are its `dev`.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question};
use super::{Split, TaskError, files, sets};

/// The files of the solved questions.
pub const DEV: &[&str] = &["cmmlu/dev/*.csv", "cmmlu/*/dev-*.parquet"];
pub const TEST: &[&str] = &["cmmlu/test/*.csv", "cmmlu/*/test-*.parquet"];
pub const COLUMNS: [&str; 2] = ["Question", "Answer"];

pub fn open(split: Split, folder: &Path) -> Result<MultipleChoice, TaskError> {
    let patterns = if split == Split::Train { DEV } else { TEST };
    let files = files::find("CMMLU", split, folder, patterns, "the hub's haonan-li/cmmlu, unzipped,")?;
    let questions = sets::shuffled(&files, |row| Question::from_columns(row, COLUMNS))?;
    Ok(MultipleChoice::new("CMMLU", questions))
}
