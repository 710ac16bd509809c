//! Exams by subject, for base models: each question follows solved ones of its own subject (from their `dev` files), as
//! C-Eval, CMMLU and MMLU prescribe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::multiple_choice::Question;
use super::{TaskError, ceval, cmmlu, files, mmlu};
use crate::files::file_error::FileError;
use crate::files::table::{TableRow, csv_rows, rows};
use crate::text::python_random::permutation;

/// The seed of the shuffle from which a limit takes questions, of all subjects alike.
const SHUFFLE_SEED: u32 = 42;

/// A set of exams: its files and the words around a question.
pub struct Exam {
    pub name: &'static str,
    /// The text before everything, and the text before an answer.
    pub instruction: &'static str,
    pub answer: &'static str,
    dev: Patterns,
    test: Patterns,
    source: &'static str,
    /// The columns of the question and the answer.
    columns: [&'static str; 2],
}

pub const EXAMS: [Exam; 3] = [
    chinese("C-Eval", "the set `ceval`", ceval::DEV, ceval::VAL, ceval::COLUMNS),
    chinese("CMMLU", "the set `cmmlu`", cmmlu::DEV, cmmlu::TEST, cmmlu::COLUMNS),
    Exam {
        name: "MMLU",
        instruction: "The following are multiple choice questions (with answers).",
        answer: "Answer: ",
        dev: &["mmlu/*/dev-*.parquet", "mmlu/dev/*_dev.csv"],
        test: &["mmlu/*/test-*.parquet", "mmlu/test/*_test.csv"],
        source: "the set `mmlu`",
        columns: ["question", "answer"],
    },
];

type Patterns = &'static [&'static str];

const fn chinese(
    name: &'static str,
    source: &'static str,
    dev: Patterns,
    test: Patterns,
    columns: [&'static str; 2],
) -> Exam {
    let (instruction, answer) = ("以下是单项选择题，请选出其中的正确答案。", "答案：");
    Exam { name, instruction, answer, dev, test, source, columns }
}

impl Exam {
    /// Returns the exam of that name, ignoring case and hyphens.
    pub fn named(name: &str) -> Option<&'static Exam> {
        let plain = |name: &str| name.to_lowercase().replace('-', "");
        EXAMS.iter().find(|exam| plain(exam.name) == plain(name))
    }

    /// Returns `limit` questions (0: all), each with its prompt: `shots` solved questions of its subject and the
    /// question.
    pub fn questions(
        &self,
        folder: &Path,
        shots: usize,
        limit: usize,
    ) -> Result<Vec<(String, Question)>, TaskError> {
        let solved: BTreeMap<String, String> = self
            .subjects("dev", self.dev, folder)?
            .into_iter()
            .map(|(subject, questions)| {
                let solved = |question: &Question| {
                    format!("{}{}\n\n", self.asked(question), question.letters[question.right])
                };
                (subject, questions.iter().take(shots).map(solved).collect())
            })
            .collect();
        let mut items = Vec::new();
        for (subject, questions) in self.subjects("test", self.test, folder)? {
            let before = format!(
                "{}\n\n{}",
                self.instruction,
                solved.get(&subject).map_or("", |solved| solved.as_str())
            );
            items.extend(
                questions
                    .into_iter()
                    .map(|question| Some((before.clone() + &self.asked(&question), question))),
            );
        }
        let limit = if limit > 0 { limit } else { items.len() };
        let order = permutation(SHUFFLE_SEED, items.len()).into_iter().take(limit);
        Ok(order.map(|i| items[i].take().expect("a permutation meets each once")).collect())
    }

    fn asked(&self, question: &Question) -> String {
        let choices = question.letters.iter().zip(&question.choices);
        let choices: String = choices.map(|(letter, choice)| format!("{letter}. {choice}\n")).collect();
        format!("{}\n{choices}{}", question.question.trim(), self.answer)
    }

    fn subjects(
        &self,
        split: &str,
        patterns: &[&str],
        folder: &Path,
    ) -> Result<BTreeMap<String, Vec<Question>>, TaskError> {
        let split = if split == "dev" { super::Split::Train } else { super::Split::Test };
        let files = files::find(self.name, split, folder, patterns, self.source)?;
        let mut subjects: BTreeMap<String, Vec<Question>> = BTreeMap::new();
        for file in files {
            let subject = subject(&file);
            // MMLU's repository repeats every subject in one folder.
            if subject != "all" {
                let questions: Result<Vec<Question>, FileError> = self.read(&file)?.collect();
                subjects.entry(subject).or_default().extend(questions?);
            }
        }
        Ok(subjects)
    }

    fn read(&self, file: &Path) -> Result<impl Iterator<Item = Result<Question, FileError>>, FileError> {
        let is_mmlu = self.name == "MMLU";
        let rows = match is_mmlu && file.extension().is_some_and(|extension| extension == "csv") {
            true => csv_rows(file, &mmlu::COLUMNS)?, // the original files have no header row
            false => rows(file)?,
        };
        let columns = self.columns;
        let question = move |row: &TableRow| match is_mmlu {
            true => mmlu::question(row),
            false => Question::from_columns(row, columns),
        };
        Ok(rows.map(move |row| question(&row?)))
    }
}

/// Returns the subject of a file: `law` for `dev/law_dev.csv` and `law/dev-00000-of-00001.parquet`.
fn subject(file: &Path) -> String {
    let name = |path: Option<PathBuf>| {
        path.and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).unwrap_or_default()
    };
    if file.extension().is_some_and(|extension| extension == "parquet") {
        return name(file.parent().map(Path::to_path_buf));
    }
    let stem = name(Some(file.to_path_buf()));
    let split = ["_dev", "_val", "_test"].into_iter().find_map(|split| stem.strip_suffix(split));
    split.map_or(stem.clone(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_stands_after_solved_ones_of_its_subject() {
        let temp = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let head = "id,question,A,B,C,D,answer\n";
        write("ceval/dev/law_dev.csv", &format!("{head}0,法一,甲,乙,丙,丁,B\n1,法二,甲,乙,丙,丁,C\n"));
        write("ceval/dev/art_dev.csv", &format!("{head}0,艺一,甲,乙,丙,丁,A\n"));
        write("ceval/val/law_val.csv", &format!("{head}0,法三,甲,乙,丙,丁,D\n"));
        write("ceval/val/art_val.csv", &format!("{head}0,艺二,甲,乙,丙,丁,A\n1,艺三,甲,乙,丙,丁,A\n"));
        let exam = Exam::named("ceval").unwrap();
        let questions = exam.questions(temp.path(), 1, 0).unwrap();
        assert_eq!(questions.len(), 3);
        let (text, question) = questions.iter().find(|(text, _)| text.contains("法三")).unwrap();
        let expected = "以下是单项选择题，请选出其中的正确答案。\n\n法一\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案：B\n\n\
                        法三\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案：";
        assert_eq!((text.as_str(), question.right), (expected, 3));
        assert_eq!(exam.questions(temp.path(), 5, 2).unwrap().len(), 2);
        write("mmlu/dev/art_dev.csv", "Q1,a,b,c,d,A\n");
        write("mmlu/test/art_test.csv", "Q2,a,b,c,d,D\n");
        let english = &Exam::named("MMLU").unwrap().questions(temp.path(), 5, 0).unwrap()[0];
        assert!(english.0.ends_with("Answer: A\n\nQ2\nA. a\nB. b\nC. c\nD. d\nAnswer: "), "{}", english.0);
        let missing = Exam::named("cmmlu").unwrap().questions(temp.path(), 5, 0).err().unwrap().to_string();
        assert!(missing.contains("CMMLU") && Exam::named("none").is_none(), "{missing}");
    }

    #[test]
    fn a_file_names_its_subject() {
        for (file, expected) in [
            ("ceval/val/law_val.csv", "law"),
            ("cmmlu/test/arts.csv", "arts"),
            ("ceval-exam/law/val-00000-of-00001.parquet", "law"),
        ] {
            assert_eq!(subject(Path::new(file)), expected);
        }
    }
}
