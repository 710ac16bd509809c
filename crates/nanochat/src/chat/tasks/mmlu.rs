//! MMLU (Hendrycks et al. 2021): 57 subjects, four choices. Its training items are the `auxiliary_train` set.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question, letters};
use super::{Split, TaskError, files, sets};
use crate::files::file_error::FileError;
use crate::files::table::{TableRow, csv_rows, rows};

pub const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

pub fn open(split: Split, folder: &Path) -> Result<MultipleChoice, TaskError> {
    let patterns: &[&str] = match split {
        Split::Train => &["mmlu/auxiliary_train/train-*.parquet", "mmlu/auxiliary_train/*.csv"],
        Split::Test => &["mmlu/all/test-*.parquet", "mmlu/test/*_test.csv"],
    };
    let files = files::find("MMLU", split, folder, patterns, "the hub's cais/mmlu")?;
    let open = |path: &Path| match path.extension().is_some_and(|extension| extension == "csv") {
        true => csv_rows(path, &COLUMNS), // the original files have no header row
        false => rows(path),
    };
    Ok(MultipleChoice::new("MMLU", sets::shuffled_by(&files, open, question)?))
}

pub fn question(row: &TableRow) -> Result<Question, FileError> {
    if row.get("A").is_some() {
        return Question::from_columns(row, ["question", "answer"]);
    }
    // In the hub's auxiliary_train the columns are nested one level down.
    let row = if row.get("train").is_some() { &row.inner("train")? } else { row };
    let choices = row.strings("choices")?;
    if choices.len() != 4 {
        return Err(row.bad(format!("{} choices where 4 are due", choices.len())));
    }
    let right = row.index("answer", 4)?;
    Ok(Question { question: row.text("question")?.into(), choices, letters: letters(4), right })
}
