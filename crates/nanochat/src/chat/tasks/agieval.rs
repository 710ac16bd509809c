//! AGIEval (Zhong et al. 2023): questions of the Gaokao, the SAT and LogiQA, in English and Chinese. It has no training
//! items. Questions with several right answers and free-form ones cannot be answered by one letter, and are left out.

use std::path::Path;

use super::multiple_choice::{MultipleChoice, Question, letters, shown};
use super::{Split, TaskError, files, sets};
use crate::files::file_error::FileError;
use crate::files::table::TableRow;

const NAME: &str = "AGIEval";
/// Parts of the names of Chinese files, except the Gaokao's English exam.
const CHINESE: [&str; 3] = ["gaokao", "-zh", "jec-qa"];

/// Opens a part: empty for all, `en`, `zh`, or a file's name without hyphens. Returns None if there is no such part.
pub fn open(part: &str, split: Split, folder: &Path) -> Result<Option<MultipleChoice>, TaskError> {
    if split == Split::Train {
        return Err(TaskError::NoSplit { task: NAME, split: "training" });
    }
    let patterns = ["agieval/*.jsonl", "AGIEval/data/v1_1/*.jsonl", "AGIEval/data/v1/*.jsonl"];
    let mut files = files::find(NAME, split, folder, &patterns, "the repository ruixiangcui/AGIEval")?;
    let stem =
        |file: &Path| file.file_stem().map_or(String::new(), |stem| stem.to_string_lossy().into_owned());
    files.retain(|file| {
        let stem = stem(file);
        let is_chinese = CHINESE.iter().any(|name| stem.contains(name)) && stem != "gaokao-english";
        match part {
            "" => true,
            "en" => !is_chinese,
            "zh" => is_chinese,
            part => stem.replace('-', "") == part,
        }
    });
    let name = match (part, files.as_slice()) {
        (_, []) => return Ok(None),
        ("", _) => NAME.into(),
        ("en" | "zh", _) => format!("{NAME}-{part}"),
        (_, [file, ..]) => format!("{NAME}-{}", stem(file)),
    };
    let items = sets::shuffled(&files, question)?;
    let all = items.len();
    let questions: Vec<Question> = items.into_iter().flatten().collect();
    if questions.is_empty() {
        return Err(TaskError::NoLetter { path: files.swap_remove(0) });
    }
    let left_out = all - questions.len();
    let note = (left_out > 0).then(|| {
        format!("{left_out} of its {all} questions are left out: to fill in, or with several right answers")
    });
    Ok(Some(MultipleChoice { name, questions, note }))
}

/// None where one letter is not the answer.
fn question(row: &TableRow) -> Result<Option<Question>, FileError> {
    if row.get("options").is_none() || row.get("label").is_none_or(|label| label.is_array()) {
        return Ok(None);
    }
    let right = row.text("label")?;
    // Some files have `ACD` or `A B D` instead of a list.
    if right.len() > 1 && right.chars().all(|c| c.is_ascii_uppercase() || c == ' ') {
        return Ok(None);
    }
    let choices = in_order(row.strings("options")?);
    let letters = letters(choices.len());
    let right = letters.iter().position(|letter| letter == right).ok_or_else(|| {
        row.bad(format!("the label must be one of {}, found {:?}", letters.join(", "), shown(right)))
    })?;
    let passage = match row.get("passage") {
        Some(_) => row.string("passage")?.trim(),
        None => "",
    };
    let question = format!("{passage}\n{}", row.text("question")?.trim()).trim_start().to_string();
    Ok(Some(Question { question, choices, letters, right }))
}

/// Returns the choices without their letters, in the order of the letters: some sets were read across a page of two
/// columns, and the label is the letter. If letters are missing or doubled, keeps the order of the file.
fn in_order(options: Vec<String>) -> Vec<String> {
    let marked: Vec<_> = options.iter().map(|option| marked(option)).collect();
    let all_marked = marked.iter().all(Option::is_some);
    let mut choices: Vec<(Option<char>, &str)> = options
        .iter()
        .zip(marked)
        .map(|(option, marked)| match marked {
            Some((letter, text, is_sure)) if is_sure || all_marked => (Some(letter), text),
            _ => (None, option.trim()),
        })
        .collect();
    let mut found: Vec<char> = choices.iter().filter_map(|(letter, _)| *letter).collect();
    found.sort_unstable();
    if found.into_iter().eq(('A'..='Z').take(choices.len())) {
        choices.sort_by_key(|(letter, _)| *letter);
    }
    choices.into_iter().map(|(_, text)| text.to_string()).collect()
}

/// Returns the letter before a choice, the rest, and whether it is certainly a label: `(A)…`, `A．…`, but not `A dog`.
fn marked(option: &str) -> Option<(char, &str, bool)> {
    let option = option.trim();
    let inner = option.strip_prefix(['(', '（']).unwrap_or(option);
    let letter = inner.chars().next().filter(char::is_ascii_uppercase)?;
    let rest = inner[1..].trim_start();
    match rest.strip_prefix([')', '）', '.', '．', '、', ':', '：']) {
        Some(text) => Some((letter, text.trim_start(), true)),
        None => inner[1..].starts_with(char::is_whitespace).then_some((letter, rest, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_lose_their_letters_and_stand_in_their_order() {
        let order = |options: [&str; 4]| in_order(options.map(String::from).to_vec());
        for options in [
            ["(A)one", "(B)two", "(C)three", "(D)four"],
            [" A. one ", "B．two", "（C）three", "D、 four"],
            ["A one", "C three", "B two", "D four"],
            ["(A)one", "(C) three", "(B) two", "(D)four"],
        ] {
            assert_eq!(order(options), ["one", "two", "three", "four"], "{options:?}");
        }
        assert_eq!(order(["A dog", "cats", "(C)D", "(D) E. coli"]), ["A dog", "cats", "D", "E. coli"]);
        assert_eq!(order(["(A)一", "(B)二", "(C)三", "(C)四"]), ["一", "二", "三", "四"]);
        assert_eq!(order(["Andes", "Alps", "", "Bonn"]), ["Andes", "Alps", "", "Bonn"]);
    }
}
