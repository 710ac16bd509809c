//! What people say to the assistant and what it answers: the tables of one language.

use super::Language;
use super::problems::Problems;

pub struct Talk {
    /// By attribute: `{n}` the subject's name, for a person also `{he}`, `{his}`.
    pub questions: [&'static [&'static str]; 12],
    /// `{sum}`.
    pub sums: &'static [&'static str],
    /// Between two numbers, by operator.
    pub operators: [&'static str; 4],
    /// By operator, (problem, answer): a person `{n}`, `{a}` and `{b}` numbers, `{items}`, `{result}`.
    pub problems: [&'static [(&'static str, &'static str)]; 4],
    pub two_steps: Problems,
    pub items: &'static [&'static str],
    /// `{word}`.
    pub spellings: &'static [&'static str],
    /// `{word}`, `{letter}`.
    pub counts: &'static [&'static str],
    /// `{letter}`, `{times}`.
    pub counted: &'static str,
    pub identity: &'static [Identity],
    /// May stand before a question about the assistant.
    pub greetings: &'static [&'static str],
    pub small_talk: &'static [(&'static [&'static str], &'static [&'static str])],
    /// Asking for a story, about `{a}` or whoever.
    pub stories: &'static [&'static str],
    /// About somebody who does not exist, `{n}`.
    pub unknown: &'static [&'static str],
    /// System messages.
    pub systems: &'static [&'static str],
}

/// One thing people ask about the assistant; every answer has its `{name}`.
pub struct Identity {
    pub asks: &'static [&'static str],
    /// Asked only in the test.
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
