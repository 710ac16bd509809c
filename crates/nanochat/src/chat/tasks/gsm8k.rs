//! GSM8K (Cobbe et al. 2021): grade-school word problems, their solutions annotated with calls of a calculator:
//! `16-3 = <<16-3=13>>13 eggs … #### 13`.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::{Grading, Split, Task, TaskError, exchange, files, sets};
use crate::conversation::{Content, Conversation, Part, PartKind};
use crate::files::file_error::FileError;
use crate::files::table::TableRow;

pub struct Gsm8k {
    problems: Vec<WordProblem>,
}

struct WordProblem {
    question: String,
    solution: Vec<Part>,
    answer: String,
}

static CALL: LazyLock<Regex> = LazyLock::new(|| Regex::new("<<([^>]+)>>").expect("a constant"));
static FINAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").expect("a constant"));

impl Gsm8k {
    pub fn open(split: Split, folder: &Path) -> Result<Gsm8k, TaskError> {
        let patterns: &[&str] = match split {
            Split::Train => &["gsm8k/main/train-*.parquet", "gsm8k/train.jsonl"],
            Split::Test => &["gsm8k/main/test-*.parquet", "gsm8k/test.jsonl"],
        };
        let files = files::find("GSM8K", split, folder, patterns, "the hub's openai/gsm8k")?;
        Ok(Gsm8k { problems: sets::shuffled(&files, problem)? })
    }
}

fn problem(row: &TableRow) -> Result<WordProblem, FileError> {
    let solution = parts(row.text("answer")?);
    let answer = solution.iter().rev().find(|part| part.kind == PartKind::Text);
    let answer = answer.and_then(|part| final_answer(&part.text));
    let answer = answer.ok_or_else(|| row.bad("the solution does not end with `#### ` and a number"))?;
    Ok(WordProblem { question: row.text("question")?.into(), solution, answer })
}

/// Splits a solution at its calculator calls: `<<16-3=13>>` is python `16-3` with the output `13`.
pub fn parts(solution: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut push = |kind, text: &str| parts.push(Part { kind, text: text.into() });
    let mut end = 0;
    for call in CALL.captures_iter(solution) {
        let (whole, inner) = (call.get(0).expect("the match"), &call[1]);
        if end < whole.start() {
            push(PartKind::Text, &solution[end..whole.start()]);
        }
        let (python, output) = inner.rsplit_once('=').unwrap_or((inner, ""));
        push(PartKind::Python, python);
        push(PartKind::PythonOutput, output);
        end = whole.end();
    }
    if end < solution.len() {
        push(PartKind::Text, &solution[end..]);
    }
    parts
}

/// Returns the number after the first `#### `, as written but without commas.
pub fn final_answer(text: &str) -> Option<String> {
    FINAL.captures(text).map(|found| found[1].replace(',', ""))
}

impl Task for Gsm8k {
    fn name(&self) -> &str {
        "GSM8K"
    }

    fn kind(&self) -> Grading {
        Grading::Generative
    }

    fn len(&self) -> usize {
        self.problems.len()
    }

    fn conversation(&self, i: usize) -> Conversation {
        let WordProblem { question, solution, .. } = &self.problems[i];
        exchange(question, Content::Parts(solution.clone()))
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        Ok(final_answer(answer).as_ref() == Some(&self.problems[i].answer))
    }
}
