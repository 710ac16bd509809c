//! ARC (Clark et al. 2018): grade-school science questions, an easy and a challenging set, each with its own labels.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question, letters};
use super::{Split, TaskError, files, sets};
use crate::files::file_error::FileError;
use crate::files::table::TableRow;

/// Opens ARC-Easy or ARC-Challenge by `name`. Test items may also come from a CORE bundle.
pub fn open(name: &'static str, split: Split, folder: &Path) -> Result<MultipleChoice, TaskError> {
    let hub = format!("ai2_arc/{name}/{}-*.parquet", if split == Split::Train { "train" } else { "test" });
    let core =
        format!("eval_bundle/eval_data/world_knowledge/{}.jsonl", name.to_lowercase().replace('-', "_"));
    let patterns = [hub.as_str(), core.as_str()];
    let patterns = if split == Split::Train { &patterns[..1] } else { &patterns };
    let files = files::find(name, split, folder, patterns, "the hub's allenai/ai2_arc")?;
    let questions = sets::shuffled(&files, question)?;
    Ok(MultipleChoice::new(name, questions))
}

fn question(row: &TableRow) -> Result<Question, FileError> {
    if row.get("query").is_some() {
        return bundle_question(row);
    }
    let inner = row.inner("choices")?;
    let (choices, letters) = (inner.strings("text")?, inner.strings("label")?);
    let key = row.text("answerKey")?;
    if choices.len() != letters.len() {
        return Err(row.bad(format!("{} choices with {} labels", choices.len(), letters.len())));
    }
    let right = letters.iter().position(|letter| letter == key);
    let right =
        right.ok_or_else(|| row.bad(format!("the answer {key} is none of {}", letters.join(", "))))?;
    Ok(Question { question: row.text("question")?.into(), choices, letters, right })
}

/// A bundle's item has no labels of its own.
fn bundle_question(row: &TableRow) -> Result<Question, FileError> {
    let question = row.text("query")?.trim_start_matches("Question: ").to_string();
    let choices = row.strings("choices")?;
    let right = row.index("gold", choices.len())?;
    Ok(Question { question, letters: letters(choices.len()), choices, right })
}
