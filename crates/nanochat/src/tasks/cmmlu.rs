//! CMMLU (Li et al. 2023): 67 subjects of Chinese knowledge, four choices. Training items are its `dev`.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question};
use super::{Split, TaskError, files, sets};

pub fn open(split: Split, folder: &Path) -> Result<MultipleChoice, TaskError> {
    let patterns: &[&str] = match split {
        Split::Train => &["cmmlu/dev/*.csv", "cmmlu/*/dev-*.parquet"],
        Split::Test => &["cmmlu/test/*.csv", "cmmlu/*/test-*.parquet"],
    };
    let files = files::find("CMMLU", split, folder, patterns, "the hub's haonan-li/cmmlu, unzipped,")?;
    let questions = sets::shuffled(&files, |row| Question::from_columns(row, ["Question", "Answer"]))?;
    Ok(MultipleChoice { name: "CMMLU".into(), questions })
}
