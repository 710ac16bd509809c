//! Checks tasks on the real files of a folder of data sets: `task_files FOLDER`.
//!
//! - Every task's own answers are graded right.
//! - GSM8K: `<<a=b>>` reads into a call and its result and back into the same text; our calculator says b of a. Calls of
//!   which it does not are listed.
//! - HumanEval: a solution that returns nothing fails, and so does one without its last line.

use std::path::{Path, PathBuf};

use nanochat::chat::tasks::{Folders, Grading, Split, Task, TaskError, gsm8k_parts, open};
use nanochat::conversation::PartKind;
use nanochat::conversation::calculator::calculate;
use nanochat::files::lines::BadLines;
use nanochat::files::table::rows;

fn main() -> anyhow::Result<()> {
    let sets = PathBuf::from(std::env::args().nth(1).unwrap_or_default());
    let folders =
        Folders { sets: sets.clone(), world: sets.clone(), unconfined: false, bad_lines: BadLines::Fail };
    let names = "ARC-Easy ARC-Challenge MMLU C-Eval CMMLU AGIEval-en AGIEval-zh GSM8K HumanEval SpellingBee";
    for name in names.split(' ') {
        for split in [Split::Train, Split::Test] {
            match open(name, split, &folders) {
                Ok(task) => own_answers(&*task, split),
                Err(TaskError::NoSplit { .. } | TaskError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    gsm8k(&sets)?;
    mutants(&*open("HumanEval", Split::Test, &folders)?);
    Ok(())
}

fn solution(task: &dyn Task, i: usize) -> String {
    task.conversation(i).messages.pop().expect("an answer").content.text()
}

fn is_right(task: &dyn Task, i: usize, answer: &str) -> bool {
    task.grade(i, answer).unwrap_or_else(|error| panic!("{} {i}: {error}", task.name()))
}

fn own_answers(task: &dyn Task, split: Split) {
    let right =
        (0..task.len()).filter(|&i| task.kind() != Grading::Talk && is_right(task, i, &solution(task, i)));
    println!("{} {split:?}: {} items, {} own answers right", task.name(), task.len(), right.count());
}

fn gsm8k(sets: &Path) -> anyhow::Result<()> {
    let (mut problems, mut same, mut calls, mut agreed) = (0, 0, 0, 0);
    for file in ["train.jsonl", "test.jsonl"] {
        for row in rows(&sets.join("gsm8k").join(file))? {
            let row = row?;
            let (text, parts) = (row.text("answer")?, gsm8k_parts(row.text("answer")?));
            let mut again = String::new();
            for (i, part) in parts.iter().enumerate() {
                match part.kind {
                    PartKind::Text => again += &part.text,
                    PartKind::Python => {
                        let result = &parts[i + 1].text;
                        again += &format!("<<{}={result}>>", part.text);
                        calls += 1;
                        let ours = calculate(&part.text);
                        let number = |text: &str| text.replace(',', "").parse::<f64>().ok();
                        let agrees = ours.as_deref().and_then(number).is_some_and(|ours| {
                            number(result).is_some_and(|result| (ours - result).abs() <= 1e-9 * result.abs())
                        });
                        agreed += usize::from(agrees);
                        if !agrees {
                            println!(
                                "  {}={result}, ours {}",
                                part.text,
                                ours.as_deref().unwrap_or("nothing")
                            );
                        }
                    }
                    PartKind::PythonOutput => {}
                }
            }
            problems += 1;
            same += usize::from(again == text);
        }
    }
    println!("GSM8K: {problems} problems, {same} read back the same; {calls} calls, {agreed} results agree");
    Ok(())
}

fn mutants(task: &dyn Task) {
    let mut failed = [0, 0];
    for i in 0..task.len() {
        let solution = solution(task, i);
        let without = solution.trim_end().rsplit_once('\n').map_or("", |(start, _)| start);
        let nothing = solution.replace("return ", "return None and ");
        for (failed, mutant) in failed.iter_mut().zip([nothing.as_str(), without]) {
            *failed += usize::from(!is_right(task, i, mutant));
        }
    }
    let [nothing, without] = failed;
    println!(
        "HumanEval: of {} solutions fail {nothing} that return nothing, {without} without their last line",
        task.len()
    );
}
