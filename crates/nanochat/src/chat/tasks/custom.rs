//! A user's own JSON file: conversations to train on, or an evaluation.
//!
//! ```text
//! {"question": "2 + 3?", "answer": "5", "grade": "number"}
//! {"question": "Which is a fruit?", "choices": ["stone", "plum"], "answer": "B"}
//! ```
//!
//! Either all lines of an evaluation have choices (the answer is then a letter) or none. `grade` says when a free text
//! is right: `exact` (the default: equal to the answer, except for spaces around it), `number` (its last number equals
//! the answer), `contains` (it contains the answer, ignoring case), `regex` (the answer is a pattern that matches in
//! it). `answer` may be a list, of which one must match. Instead of `question` there may be `messages` that end with
//! the user; `system` precedes either.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::multiple_choice::{MultipleChoice, Question, letters};
use super::{Grading, Task, TaskError, talk};
use crate::conversation::{Conversation, ExamplesError, JsonFields, Told, Unused, from_json};
use crate::files::file_error::FileError;
use crate::files::json;
use crate::files::json_records::JsonRecords;
use crate::files::lines::BadLines;
use crate::files::table::{TableRow, json_row};
use crate::world::language_of;

/// The most memory that a user's pattern may take when compiled, in bytes.
const MAX_PATTERN: usize = 1 << 20;
/// The keys that a line of an evaluation may have.
const KEYS: [&str; 6] = ["question", "messages", "system", "choices", "answer", "grade"];

struct Questions {
    name: String,
    items: Vec<EvalItem>,
    note: Option<String>,
}

struct EvalItem {
    conversation: Conversation,
    right: Vec<Right>,
}

/// The test of a right answer.
enum Right {
    Exact(String),
    Number(f64),
    Contains(String),
    Regex(Regex),
}

/// Opens the file. The first readable text decides whether it holds conversations or an evaluation.
pub fn open(path: &Path, bad_lines: BadLines) -> Result<Box<dyn Task>, TaskError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split_once(".json").map_or(&*name, |(stem, _)| stem).to_string();
    let mut records = JsonRecords::open(path)?.peekable();
    if records.peek().is_none() {
        return Err(TaskError::Empty { path: path.into() });
    }
    let first = records.find_map(|record| json::parse(&record.ok()?.1).ok());
    let first = first.map_or(Value::Null, |(value, _)| value);
    Ok(if first.get("choices").is_some() {
        let (questions, note) = read(path, bad_lines, choice)?;
        Box::new(MultipleChoice { note, ..MultipleChoice::new(name, questions) })
    } else if first.get("answer").is_some() || first.get("question").is_some() {
        let (items, note) = read(path, bad_lines, item)?;
        Box::new(Questions { name, items, note })
    } else {
        Box::new(talk::file(&name, path)?)
    })
}

/// Reads an item from each text, and returns sentences to report about the file.
fn read<T>(
    path: &Path,
    bad_lines: BadLines,
    item: impl Fn(&TableRow) -> Result<T, FileError>,
) -> Result<(Vec<T>, Option<String>), ExamplesError> {
    let (mut items, mut told, shared) = (Vec::new(), Told::default(), Arc::<Path>::from(path));
    for record in JsonRecords::open(path)? {
        let (place, text) = record?;
        let read = json_row(&shared, place, &text)
            .and_then(|(row, mended)| Ok((item(&row)?, unused(&row)?, mended)));
        if let Some((item, unused, mended)) = told.count(read, bad_lines)? {
            told.add(place, unused, mended);
            items.push(item);
        }
    }
    told.check(path)?;
    let sentences = told.sentences();
    Ok((items, (!sentences.is_empty()).then(|| sentences.join("; "))))
}

/// The keys that are not used; an error for one that changes the question.
fn unused(row: &TableRow) -> Result<Unused, FileError> {
    let (mut fields, mut unused) = (JsonFields::new(row.columns().clone(), false), Unused::default());
    KEYS.iter().for_each(|key| drop(fields.take(key)));
    fields.finish("", &mut unused).map_err(|reason| row.bad(reason))?;
    Ok(unused)
}

fn choice(row: &TableRow) -> Result<Question, FileError> {
    if let Some(key) = ["messages", "system"].into_iter().find(|key| row.get(key).is_some()) {
        return Err(row.bad(format!("`{key}` is not used with choices; write all into `question`")));
    }
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

fn item(row: &TableRow) -> Result<EvalItem, FileError> {
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
    let conversation = json!({"messages": messages, "system": row.get("system")});
    let conversation = from_json(conversation).map_err(|reason| row.bad(reason))?;
    let grade = if row.get("grade").is_some() { row.text("grade")? } else { "exact" };
    let right = answers.iter().map(|answer| Right::new(grade, answer).map_err(|reason| row.bad(reason)));
    Ok(EvalItem { conversation, right: right.collect::<Result<_, _>>()? })
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

/// Returns the last number of a text: 1234.5 for `about 1,234.50 m`.
fn last_number(text: &str) -> Option<f64> {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"-?[0-9][0-9,]*(\.[0-9]+)?").expect("a constant"));
    NUMBER.find_iter(text).last()?.as_str().replace(',', "").parse().ok()
}

impl Task for Questions {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Grading {
        Grading::Generative
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

    fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether `answer` is in the language of the last question; None if one of them has no words.
    fn is_in_its_language(&self, i: usize, answer: &str) -> Option<bool> {
        let messages = &self.items[i].conversation.messages;
        let question = messages[messages.len() - 2].content.text();
        Some(language_of(&question)? == language_of(answer)?)
    }
}
