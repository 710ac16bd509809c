//! HumanEval (Chen et al. 2021): Python functions to write from their descriptions, graded by running tests.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::{Grading, Split, Task, TaskError, exchange, files, sets};
use crate::conversation::{Content, Conversation};
use crate::files::file_error::FileError;
use crate::files::table::TableRow;
use crate::sandbox::{Outcome, Sandbox, Trial};

pub struct HumanEval {
    problems: Vec<CodingProblem>,
    sandbox: Sandbox,
}

struct CodingProblem {
    prompt: String,
    solution: String,
    test: String,
    entry_point: String,
}

static BLOCK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)```(?:python)?\s*\n(.*?)\n```").expect("a constant"));

impl HumanEval {
    /// Opens the task. Programs run in a sandbox, or only with limits of time and memory if `unconfined`.
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

fn problem(row: &TableRow) -> Result<CodingProblem, FileError> {
    let text = |column| row.text(column).map(String::from);
    Ok(CodingProblem {
        prompt: text("prompt")?,
        solution: text("canonical_solution")?,
        test: text("test")?,
        entry_point: text("entry_point")?,
    })
}

impl CodingProblem {
    /// Runs the prompt's imports and the code of an answer as one program. The prompt itself goes to the test, since
    /// some tests use functions that it defines.
    fn outcome(&self, answer: &str, sandbox: &Sandbox) -> Result<Outcome, TaskError> {
        let imports = imports(&self.prompt).collect::<Vec<_>>().join("\n");
        let code = format!("{imports}\n\n{}", code(answer));
        let CodingProblem { prompt, test, entry_point: function, .. } = self;
        Ok(sandbox.run(&Trial { code: &code, function, prompt, imports: &imports, test })?)
    }
}

/// Returns the import lines at the start of a program.
fn imports(program: &str) -> impl Iterator<Item = &str> {
    let lines = program.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.take_while(|line| line.starts_with("import ") || line.starts_with("from "))
}

/// Returns the first fenced block of an answer, or else all of it.
fn code(answer: &str) -> &str {
    BLOCK.captures(answer).and_then(|found| found.get(1)).map_or(answer, |block| block.as_str()).trim()
}

impl Task for HumanEval {
    fn name(&self) -> &str {
        "HumanEval"
    }

    fn kind(&self) -> Grading {
        Grading::Generative
    }

    fn len(&self) -> usize {
        self.problems.len()
    }

    fn conversation(&self, i: usize) -> Conversation {
        let CodingProblem { prompt, solution, .. } = &self.problems[i];
        exchange(prompt, Content::Text(format!("{prompt}\n{solution}")))
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        Ok(self.problems[i].outcome(answer, &self.sandbox)? == Outcome::Passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompts_imports_and_an_answers_first_block_are_found() {
        let prompt = "# maths\nfrom typing import List\n\n  import math\n\ndef f(x):\n  import re\n";
        assert_eq!(imports(prompt).collect::<Vec<_>>(), ["from typing import List", "import math"]);
        for (answer, expected) in [
            ("def f(x): return x", "def f(x): return x"),
            ("Sure:\n```python\ndef f(x):\n\n  return x\n```\nor\n```\nno\n```", "def f(x):\n\n  return x"),
            ("```\n  a\n```", "a"),
            ("```python\nunclosed", "```python\nunclosed"),
            (" \n ", ""),
        ] {
            assert_eq!(code(answer), expected, "{answer}");
        }
    }
}
