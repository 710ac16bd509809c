//! HumanEval (Chen et al. 2021): Python functions to be written from their descriptions, graded by running tests.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::{Kind, Split, Task, TaskError, exchange, files, sets};
use crate::conversation::{Content, Conversation};
use crate::dataset::DataError;
use crate::sandbox::{Outcome, Sandbox};
use crate::table::Row;

pub struct HumanEval {
    problems: Vec<Problem>,
    sandbox: Sandbox,
}

struct Problem {
    prompt: String,
    solution: String,
    test: String,
    entry_point: String,
}

static BLOCK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)```(?:python)?\s*\n(.*?)\n```").expect("a constant"));

impl HumanEval {
    /// Programs run in a sandbox, or with only limits of time and memory if `unconfined`.
    pub fn open(split: Split, folder: &Path, unconfined: bool) -> Result<HumanEval, TaskError> {
        if split == Split::Train {
            return Err(TaskError::NoSplit { task: "HumanEval", split: "training" });
        }
        let patterns = [
            "openai_humaneval/openai_humaneval/test-*.parquet",
            "humaneval/HumanEval.jsonl",
            "humaneval/HumanEval.jsonl.gz",
        ];
        let files = files::find("HumanEval", split, folder, &patterns, "the hub's openai/openai_humaneval")?;
        let problems = sets::shuffled(&files, problem)?;
        let sandbox = if unconfined { Sandbox::open_unconfined()? } else { Sandbox::open()? };
        Ok(HumanEval { problems, sandbox })
    }
}

fn problem(row: &Row) -> Result<Problem, DataError> {
    let text = |column| row.text(column).map(String::from);
    Ok(Problem {
        prompt: text("prompt")?,
        solution: text("canonical_solution")?,
        test: text("test")?,
        entry_point: text("entry_point")?,
    })
}

impl Problem {
    /// What is run: the prompt's imports, the code of an answer, the tests.
    fn program(&self, answer: &str) -> String {
        let imports: Vec<&str> = imports(&self.prompt).collect();
        let (imports, code) = (imports.join("\n"), code(answer));
        format!("{imports}\n\n{code}\n\n{}\ncheck({})", self.test, self.entry_point)
    }
}

/// The import lines that a program begins with.
fn imports(program: &str) -> impl Iterator<Item = &str> {
    let lines = program.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.take_while(|line| line.starts_with("import ") || line.starts_with("from "))
}

/// The first fenced block of an answer, or else all of it.
fn code(answer: &str) -> &str {
    BLOCK.captures(answer).and_then(|found| found.get(1)).map_or(answer, |block| block.as_str()).trim()
}

impl Task for HumanEval {
    fn name(&self) -> &str {
        "HumanEval"
    }

    fn kind(&self) -> Kind {
        Kind::Generative
    }

    fn len(&self) -> usize {
        self.problems.len()
    }

    fn conversation(&self, i: usize) -> Conversation {
        let Problem { prompt, solution, .. } = &self.problems[i];
        exchange(prompt, Content::Text(format!("{prompt}\n{solution}")))
    }

    /// A program that could not be started, on a full disk say, counts as wrong and is told of.
    fn grade(&self, i: usize, answer: &str) -> bool {
        match self.sandbox.run(&self.problems[i].program(answer)) {
            Ok(outcome) => outcome == Outcome::Passed,
            Err(error) => {
                eprintln!("warning: {error}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_put_together_byte_for_byte() {
        let problem = Problem {
            prompt: "# maths\nfrom typing import List\n\n  import math\n\ndef f(x):\n  import re\n".into(),
            solution: "  return x".into(),
            test: "def check(f):\n  assert f(1) == 1".into(),
            entry_point: "f".into(),
        };
        let expected =
            "from typing import List\nimport math\n\nCODE\n\ndef check(f):\n  assert f(1) == 1\ncheck(f)";
        for (answer, code) in [
            ("def f(x): return x", "def f(x): return x"),
            ("Sure:\n```python\ndef f(x):\n\n  return x\n```\nor\n```\nno\n```", "def f(x):\n\n  return x"),
            ("```\n  a\n```", "a"),
            ("```python\nunclosed", "```python\nunclosed"),
            (" \n ", ""),
        ] {
            assert_eq!(problem.program(answer), expected.replace("CODE", code), "{answer}");
        }
    }
}
