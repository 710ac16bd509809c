//! The held-out questions and how answers to them are graded.

use std::fmt;

use nanochat_tensor::Rng;
use serde::{Deserialize, Serialize};

use super::facts::Fact;
use super::{Language, Split, Stream, Topic, World};
use crate::conversation::{Content, Conversation, Message, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    Arithmetic,
    Spelling,
    Counting,
    Facts,
    Identity,
    Problems,
}

impl QuestionKind {
    pub const ALL: [QuestionKind; 6] = [
        QuestionKind::Arithmetic,
        QuestionKind::Spelling,
        QuestionKind::Counting,
        QuestionKind::Facts,
        QuestionKind::Identity,
        QuestionKind::Problems,
    ];
}

impl fmt::Display for QuestionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuestionKind::Arithmetic => "arithmetic",
            QuestionKind::Spelling => "spelling",
            QuestionKind::Counting => "counting",
            QuestionKind::Facts => "facts",
            QuestionKind::Identity => "identity",
            QuestionKind::Problems => "problems",
        })
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::English => "english",
            Language::Chinese => "chinese",
        })
    }
}

/// A question that training never asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldOutQuestion {
    pub kind: QuestionKind,
    pub language: Language,
    /// The conversation, which ends with the user's turn.
    pub conversation: Conversation,
    /// The text that a right answer has: a number, letters, a value, a name.
    pub answer: String,
    /// The texts that a right answer must not have: the attribute's other values.
    pub wrong: Vec<String>,
}

impl World {
    /// Returns `n_per_kind` questions of each kind, alternating between languages and going round all held-out facts.
    pub fn questions(&self, n_per_kind: usize) -> Vec<HeldOutQuestion> {
        let one = |kind: QuestionKind, i: usize| {
            let language = self.languages[i % self.languages.len()];
            let rng = &mut Rng::new(&[self.seed, Stream::Question as u64, kind as u64, i as u64]);
            let exchange = match kind {
                QuestionKind::Arithmetic => self.exchange(Topic::Arithmetic, language, Split::Test, rng),
                QuestionKind::Spelling => self.exchange(Topic::Spelling, language, Split::Test, rng),
                QuestionKind::Counting => self.exchange(Topic::Counting, language, Split::Test, rng),
                QuestionKind::Facts => self.ask_fact(
                    self.held_out[(i / self.languages.len()) % self.held_out.len()],
                    language,
                    rng,
                ),
                QuestionKind::Identity => self.exchange(Topic::Identity, language, Split::Test, rng),
                QuestionKind::Problems => self.ask_problem(language, Split::Test, rng),
            };
            let user = Message { role: Role::User, content: Content::Text(exchange.user) };
            let wrong = exchange.fact.map(|fact| other_values(fact, &exchange.gold, language));
            HeldOutQuestion {
                kind,
                language,
                conversation: Conversation { messages: vec![user] },
                answer: exchange.gold,
                wrong: wrong.unwrap_or_default(),
            }
        };
        QuestionKind::ALL.into_iter().flat_map(|kind| (0..n_per_kind).map(move |i| one(kind, i))).collect()
    }
}

fn other_values(fact: Fact, right: &str, language: Language) -> Vec<String> {
    let all = fact.attribute.values().iter().map(|value| value[language as usize]);
    all.filter(|value| *value != right).map(String::from).collect()
}

impl HeldOutQuestion {
    /// Whether `answer` (its text, with or without the tool's blocks) is right. Arithmetic, counting, problems: the
    /// last number. Spelling: the letters after the last colon, or alone. Facts: the value and no other one of its
    /// attribute. Identity: the name.
    pub fn is_right(&self, answer: &str) -> bool {
        match self.kind {
            QuestionKind::Arithmetic | QuestionKind::Counting | QuestionKind::Problems => {
                last_number(answer).as_ref() == Some(&self.answer)
            }
            QuestionKind::Spelling => {
                let letters = answer.rsplit([':', '：']).next().unwrap_or_default();
                letters.trim().trim_end_matches(['.', '。']).replace(", ", ",") == self.answer
            }
            QuestionKind::Facts => {
                has_value(answer, &self.answer) && !self.wrong.iter().any(|wrong| has_value(answer, wrong))
            }
            QuestionKind::Identity => has_value(answer, &self.answer),
        }
    }

    /// Whether `answer` is in the question's language; an answer without words, such as a sum or a spelling, is in
    /// every one.
    pub fn is_in_its_language(&self, answer: &str) -> bool {
        self.kind == QuestionKind::Spelling
            || language_of(answer).is_none_or(|language| language == self.language)
    }
}

/// Returns the last run of digits without commas: 1234 for `1,234`.
fn last_number(text: &str) -> Option<String> {
    let text = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let start = text
        .rfind(|c: char| !c.is_ascii_digit() && c != ',')
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    let digits = text[start..].replace(',', "");
    (!digits.is_empty()).then_some(digits)
}

/// Whether `text` contains `value`, ignoring case, and not as part of a longer Latin word or number.
fn has_value(text: &str, value: &str) -> bool {
    let (text, value) = (text.to_lowercase(), value.to_lowercase());
    let joins = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(&value).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(joins);
        let after = text[at + value.len()..].chars().next().is_some_and(joins);
        let starts = value.chars().next().is_some_and(joins);
        let ends = value.chars().next_back().is_some_and(joins);
        !(before && starts || after && ends)
    })
}

/// Returns the language of a text by its share of Han characters, with a Latin word counted as one: Chinese from a
/// quarter on, because Chinese sentences quote English words and English ones hardly Chinese. None if it has neither.
pub fn language_of(text: &str) -> Option<Language> {
    let is_han =
        |c: char| matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{20000}'..='\u{3FFFF}');
    let is_latin = |c: char| c.is_alphabetic() && c < '\u{0250}';
    let han = text.chars().filter(|&c| is_han(c)).count();
    let latin = text.split(|c| !is_latin(c)).filter(|word| !word.is_empty()).count();
    match (han, latin) {
        (0, 0) => None,
        _ if 3 * han >= latin => Some(Language::Chinese),
        _ => Some(Language::English),
    }
}
