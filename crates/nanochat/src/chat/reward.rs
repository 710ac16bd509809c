//! The rewards of reinforcement learning for answers to plain conversations, which have no grading of their own: 1 for
//! a right answer, 0 for any other.

use serde::{Deserialize, Serialize};

use crate::chat::tasks::final_answer;
use crate::conversation::Conversation;

/// The way to compare an answer with the one in the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reward {
    /// The number after `####`, as in GSM8K
    #[default]
    Number,
    /// The whole visible answer, ignoring spaces around it
    Exact,
}

impl Reward {
    /// Returns the text that a right answer to this conversation must have: the number or the whole text of its last
    /// message. None if there is none.
    pub fn gold(self, conversation: &Conversation) -> Option<String> {
        let answer = conversation.messages.last()?.content.visible_text();
        match self {
            Reward::Number => final_answer(&answer),
            Reward::Exact => Some(answer.trim().to_string()),
        }
    }

    pub fn of(self, answer: &str, gold: &str) -> f32 {
        let right = match self {
            Reward::Number => final_answer(answer).as_deref() == Some(gold),
            Reward::Exact => answer.trim() == gold,
        };
        if right { 1.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_after_the_marks_or_all_text_is_the_answer() {
        assert_eq!((Reward::Number.of("so\n#### 1,400", "1400"), Reward::Number.of("14", "14")), (1.0, 0.0));
        assert_eq!((Reward::Exact.of(" 对 ", "对"), Reward::Exact.of("对的", "对")), (1.0, 0.0));
    }
}
