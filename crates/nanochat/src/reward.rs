//! What reinforcement learning rewards: 1 for a right answer, 0 for any other.

use serde::{Deserialize, Serialize};

use crate::conversation::Conversation;

/// How an answer is compared with the one of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reward {
    /// The number after `####`, as in GSM8K
    #[default]
    Number,
    /// The whole visible answer, but for spaces around it
    Exact,
}

impl Reward {
    /// What a right answer to this conversation has: of its last message the number or all text.
    pub fn gold(self, conversation: &Conversation) -> Option<String> {
        let answer = conversation.messages.last()?.content.visible_text();
        match self {
            Reward::Number => final_number(&answer),
            Reward::Exact => Some(answer.trim().to_string()),
        }
    }

    pub fn of(self, answer: &str, gold: &str) -> f32 {
        let right = match self {
            Reward::Number => final_number(answer).as_deref() == Some(gold),
            Reward::Exact => answer.trim() == gold,
        };
        if right { 1.0 } else { 0.0 }
    }
}

/// The first number that `#### ` stands before, without its commas: digits, points and commas after a minus or none.
pub fn final_number(text: &str) -> Option<String> {
    text.match_indices("#### ").find_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(digits.len());
        let number = &rest[..rest.len() - digits.len() + end];
        (end > 0).then(|| number.replace(',', ""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_after_the_marks_is_the_answer() {
        let cases = [
            ("x 7\n#### 1,234", Some("1234")),
            ("#### -3.5 apples #### 4", Some("-3.5")),
            ("####5 #### no #### 6。", Some("6")),
            ("#### ", None),
            ("5", None),
        ];
        for (text, number) in cases {
            assert_eq!(final_number(text).as_deref(), number, "{text}");
        }
        assert_eq!(Reward::Number.of("so\n#### 14", "14"), 1.0);
        assert_eq!(Reward::Number.of("14", "14"), 0.0);
        assert_eq!((Reward::Exact.of(" 对 ", "对"), Reward::Exact.of("对的", "对")), (1.0, 0.0));
    }
}
