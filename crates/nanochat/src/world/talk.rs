//! The templates of questions and answers in one language.

use super::Language;
use super::problems::Problems;

pub struct TalkTemplates {
    /// Questions by attribute, with the subject's name `{n}` and for a person also `{he}`, `{his}`.
    pub questions: [&'static [&'static str]; 12],
    /// Questions for a `{sum}`.
    pub sums: &'static [&'static str],
    /// The words between two numbers, by operator.
    pub operators: [&'static str; 4],
    /// Word problems by operator, (problem, answer): a person `{n}`, `{a}` and `{b}` numbers, `{items}`, `{result}`.
    pub problems: [&'static [(&'static str, &'static str)]; 4],
    pub two_steps: Problems,
    pub items: &'static [&'static str],
    /// Requests to spell a `{word}`.
    pub spellings: &'static [&'static str],
    /// Requests to count a `{letter}` in a `{word}`.
    pub counts: &'static [&'static str],
    /// The answer to a count: `{letter}`, `{times}`.
    pub counted: &'static str,
    pub identity: &'static [Identity],
    /// Greetings that may precede a question about the assistant.
    pub greetings: &'static [&'static str],
    pub small_talk: &'static [(&'static [&'static str], &'static [&'static str])],
    /// Requests for a story, about `{a}` or anyone.
    pub stories: &'static [&'static str],
    /// Questions about a person `{n}` who does not exist.
    pub unknown: &'static [&'static str],
    /// System messages.
    pub systems: &'static [&'static str],
}

/// A question about the assistant; every answer has its `{name}`.
pub struct Identity {
    pub asks: &'static [&'static str],
    /// Ways to ask that only the test uses.
    pub held_out: &'static [&'static str],
    pub answers: &'static [&'static str],
}

impl Language {
    /// `2 times`, as often as something occurs.
    pub(super) fn times(self, count: usize) -> String {
        match (self, count) {
            (Language::English, 1) => "1 time".to_string(),
            (Language::English, _) => format!("{count} times"),
            (Language::Chinese, _) => format!("{count} 次"),
        }
    }
}
