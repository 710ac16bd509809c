//! A user's own JSON lines: conversations to learn from, or an evaluation.
//!
//! ```text
//! {"question": "2 + 3?", "answer": "5", "grade": "number"}
//! {"question": "Which is a fruit?", "choices": ["stone", "plum"], "answer": "B"}
//! ```
//!
//! All lines of an evaluation have choices (then the answer is a letter) or none has. `grade` says when free text
//! is right: `exact` (the default: it is the answer, spaces around it apart), `number` (its last number is the
//! answer), `contains` (the answer stands somewhere in it, in any case), `regex` (the answer is a pattern that is
//! found in it). `answer` may be a list, of which one must fit. Instead of `question` there may be `messages` that
//! end with the user.

use std::path::Path;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::multiple_choice::{MultipleChoice, Question, letters};
use super::{Kind, Task, TaskError, talk};
use crate::conversation::{Conversation, from_json};
use crate::dataset::DataError;
use crate::lines::Lines;
use crate::table::{Row, rows};
use crate::world::language_of;

/// Memory that a user's pattern may take when compiled.
const MAX_PATTERN: usize = 1 << 20;

struct Questions {
    name: String,
    items: Vec<Item>,
}

struct Item {
    conversation: Conversation,
    right: Vec<Right>,
}

/// What makes an answer right.
enum Right {
    Exact(String),
    Number(f64),
    Contains(String),
    Regex(Regex),
}

/// The first line decides what the file is.
pub fn open(path: &Path) -> Result<Box<dyn Task>, TaskError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split_once(".json").map_or(&*name, |(stem, _)| stem).to_string();
    let Some(first) = Lines::open(path)?.next() else { return Err(TaskError::Empty { path: path.into() }) };
    let first = serde_json::from_slice(&first?.1).unwrap_or(Value::Null);
    Ok(if first.get("choices").is_some() {
        let questions = rows(path)?.map(|row| choice(&row?)).collect::<Result<_, _>>()?;
        Box::new(MultipleChoice::new(name, questions))
    } else if first.get("answer").is_some() || first.get("question").is_some() {
        Box::new(Questions { name, items: rows(path)?.map(|row| item(&row?)).collect::<Result<_, _>>()? })
    } else {
        Box::new(talk::file(&name, path)?)
    })
}

fn choice(row: &Row) -> Result<Question, DataError> {
    let choices = row.strings("choices")?;
    if !(2..=26).contains(&choices.len()) {
        return Err(row.bad(format!("{} choices; 2 to 26 are wanted", choices.len())));
    }
    let (letters, answer) = (letters(choices.len()), row.text("answer")?.trim());
    let right = letters.iter().position(|letter| letter == answer).ok_or_else(|| {
        let last = letters.last().map_or("", String::as_str);
        row.bad(format!("the answer must be a letter from A to {last}"))
    })?;
    Ok(Question { question: row.text("question")?.into(), choices, letters, right })
}

fn item(row: &Row) -> Result<Item, DataError> {
    if row.get("choices").is_some() {
        return Err(row.bad("this line has choices, but the first line has none"));
    }
    let answers: Vec<String> = match row.value("answer")? {
        Value::Number(number) => vec![number.to_string()],
        Value::Array(_) => row.strings("answer")?,
        _ => vec![row.text("answer")?.into()],
    };
    let gold = answers.first().ok_or_else(|| row.bad("`answer` is an empty list"))?;
    let mut messages = match row.get("messages") {
        Some(Value::Array(messages)) => messages.clone(),
        Some(_) => return Err(row.bad("`messages` is not a list")),
        None => vec![json!({"role": "user", "content": row.text("question")?})],
    };
    messages.push(json!({"role": "assistant", "content": gold}));
    let conversation = from_json(Value::Array(messages)).map_err(|reason| row.bad(reason))?;
    let grade = if row.get("grade").is_some() { row.text("grade")? } else { "exact" };
    let right = answers.iter().map(|answer| Right::new(grade, answer).map_err(|reason| row.bad(reason)));
    Ok(Item { conversation, right: right.collect::<Result<_, _>>()? })
}

impl Right {
    fn new(grade: &str, answer: &str) -> Result<Right, String> {
        Ok(match grade {
            "exact" => Right::Exact(answer.trim().into()),
            "contains" => Right::Contains(answer.to_lowercase()),
            "number" => Right::Number(last_number(answer).ok_or(format!("{answer:?} is not a number"))?),
            "regex" => {
                let pattern = RegexBuilder::new(answer).size_limit(MAX_PATTERN).build();
                Right::Regex(pattern.map_err(|error| format!("{answer:?} is not a pattern ({error})"))?)
            }
            other => {
                return Err(format!("unknown grade {other:?}; use exact, number, contains or regex"));
            }
        })
    }

    fn fits(&self, answer: &str) -> bool {
        match self {
            Right::Exact(right) => answer.trim() == right,
            Right::Number(right) => last_number(answer) == Some(*right),
            Right::Contains(right) => answer.to_lowercase().contains(right),
            Right::Regex(pattern) => pattern.is_match(answer),
        }
    }
}

/// The last number of a text: `about 1,234.50 m` has 1234.5.
fn last_number(text: &str) -> Option<f64> {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"-?[0-9][0-9,]*(\.[0-9]+)?").expect("a constant"));
    NUMBER.find_iter(text).last()?.as_str().replace(',', "").parse().ok()
}

impl Task for Questions {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Generative
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn conversation(&self, i: usize) -> Conversation {
        self.items[i].conversation.clone()
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        Ok(self.items[i].right.iter().any(|right| right.fits(answer)))
    }

    /// The language of the last thing that was asked, if question and answer have words.
    fn is_in_its_language(&self, i: usize, answer: &str) -> Option<bool> {
        let messages = &self.items[i].conversation.messages;
        let question = messages[messages.len() - 2].content.text();
        Some(language_of(&question)? == language_of(answer)?)
    }
}
