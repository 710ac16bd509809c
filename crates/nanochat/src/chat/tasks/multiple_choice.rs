//! Questions with lettered choices, in the form that nanochat trains on.

use super::{Grading, Split, Task, TaskError, exchange};
use crate::conversation::{Content, Conversation};
use crate::files::file_error::FileError;
use crate::files::table::TableRow;
use crate::text::chinese;

pub struct MultipleChoice {
    pub name: String,
    pub questions: Vec<Question>,
    /// A sentence about the items of the set that were left out.
    pub note: Option<String>,
}

impl MultipleChoice {
    pub fn new(name: impl Into<String>, questions: Vec<Question>) -> MultipleChoice {
        MultipleChoice { name: name.into(), questions, note: None }
    }
}

pub struct Question {
    pub question: String,
    pub choices: Vec<String>,
    /// The letters, one for each choice.
    pub letters: Vec<String>,
    /// The index of the right choice.
    pub right: usize,
}

impl Question {
    /// Question, four choices and the right letter in columns of these names.
    pub fn from_columns(row: &TableRow, [question, answer]: [&str; 2]) -> Result<Question, FileError> {
        let letters = letters(4);
        let choices = letters
            .iter()
            .map(|letter| row.string(letter).map(String::from))
            .collect::<Result<Vec<_>, _>>()?;
        let right = row.text(answer)?.trim();
        let right = letters.iter().position(|letter| letter == right).ok_or_else(|| {
            row.bad(format!("the answer must be a letter from A to D, found {:?}", shown(right)))
        })?;
        Ok(Question { question: row.text(question)?.into(), choices, letters, right })
    }
}

/// Returns `A`, `B`, … for `count` choices, at most 26.
pub fn letters(count: usize) -> Vec<String> {
    ('A'..='Z').take(count).map(String::from).collect()
}

/// Returns the start of a file's text, for an error message.
pub fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Opens the built-in Chinese test, which has no training items.
pub fn of_chinese(kind: chinese::ChineseTask, split: Split) -> Result<MultipleChoice, TaskError> {
    if split == Split::Train {
        return Err(TaskError::NoSplit { task: kind.name(), split: "training" });
    }
    let question = |chinese::ChineseItem { query, choices, gold }| Question {
        question: query,
        letters: letters(choices.len()),
        choices,
        right: gold,
    };
    let questions = kind.items().into_iter().map(question).collect();
    Ok(MultipleChoice::new(kind.name(), questions))
}

impl Task for MultipleChoice {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Grading {
        Grading::Categorical
    }

    fn len(&self) -> usize {
        self.questions.len()
    }

    fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Renders the item with each letter after its choice: small models bind the two better that way, and the answer is
    /// one token.
    fn conversation(&self, i: usize) -> Conversation {
        let Question { question, choices, letters, right } = &self.questions[i];
        let choices = choices.iter().zip(letters).map(|(choice, letter)| format!("- {choice}={letter}\n"));
        let user = format!(
            "Multiple Choice question: {question}\n{}\nRespond only with the letter of the correct answer.",
            choices.collect::<String>()
        );
        exchange(user, Content::Text(letters[*right].clone()))
    }

    fn letters(&self, i: usize) -> &[String] {
        &self.questions[i].letters
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        let Question { letters, right, .. } = &self.questions[i];
        Ok(answer == letters[*right])
    }
}
