//! A conversation: messages by role, before it becomes tokens.

pub mod answer;
pub mod calculator;
mod example;
mod fields;
mod forms;
mod message;
mod read;
mod render;
mod told;
mod weight;

use nanochat_tokenizer::NoSpecial;
use serde::{Deserialize, Serialize};

pub use example::Example;
pub(crate) use fields::JsonFields;
pub use read::{Examples, ExamplesError};
pub(crate) use read::{from_json, parse};
pub use render::Rendered;
pub(crate) use told::{Told, Unused};

/// The turns of a conversation: an optional system message, then user and assistant strictly alternating.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub messages: Vec<Message>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

/// The content of one message: plain text, or (assistant only) text mixed with tool use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    #[serde(rename = "type")]
    pub kind: PartKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    Text,
    Python,
    PythonOutput,
}

impl PartKind {
    /// The special tokens that open and close a part of this kind; none around text.
    pub fn around(self) -> Option<(&'static str, &'static str)> {
        match self {
            PartKind::Text => None,
            PartKind::Python => Some(("<|python_start|>", "<|python_end|>")),
            PartKind::PythonOutput => Some(("<|output_start|>", "<|output_end|>")),
        }
    }
}

/// Why a conversation cannot be used. Messages are counted from 1.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConversationError {
    #[error("the conversation has no messages")]
    NoMessages,
    #[error("message {0} is a system message; only the first may be")]
    LateSystem(usize),
    #[error("message {at} has the role {found}, but it is the {due}'s turn")]
    WrongTurn { at: usize, found: Role, due: Role },
    #[error("message {0} is empty")]
    Empty(usize),
    #[error("message {0} uses the python tool, which only the assistant may")]
    ToolUse(usize),
    #[error("the conversation does not end with the assistant, so there is no answer to learn from")]
    NoAnswer,
    #[error(transparent)]
    NoSpecial(#[from] NoSpecial),
}

impl Conversation {
    /// Makes a conversation of one user message.
    pub fn question(text: &str) -> Conversation {
        let content = Content::Text(text.to_string());
        Conversation { messages: vec![Message { role: Role::User, content }] }
    }

    /// Checks that this can be trained on: the turns alternate, none is empty, and the assistant is last.
    pub fn validate(&self) -> Result<(), ConversationError> {
        self.validate_turns()?;
        match self.messages.last() {
            Some(Message { role: Role::Assistant, .. }) => Ok(()),
            _ => Err(ConversationError::NoAnswer),
        }
    }

    /// Checks the same as [`Conversation::validate`], but the user may be last.
    fn validate_turns(&self) -> Result<(), ConversationError> {
        let mut due = Role::User;
        let mut any_turn = false;
        for (i, message) in self.messages.iter().enumerate() {
            let at = i + 1;
            if message.content.is_blank() {
                return Err(ConversationError::Empty(at));
            }
            if message.role != Role::Assistant && message.content.uses_tools() {
                return Err(ConversationError::ToolUse(at));
            }
            match message.role {
                Role::System if i == 0 => continue,
                Role::System => return Err(ConversationError::LateSystem(at)),
                found if found != due => return Err(ConversationError::WrongTurn { at, found, due }),
                _ => due = if due == Role::User { Role::Assistant } else { Role::User },
            }
            any_turn = true;
        }
        if any_turn { Ok(()) } else { Err(ConversationError::NoMessages) }
    }
}

impl Content {
    /// Returns all text, without the special tokens of tool use.
    pub fn text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }

    /// Returns the text that a reader sees, without tool use.
    pub fn visible_text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => {
                let texts = parts.iter().filter(|part| part.kind == PartKind::Text);
                texts.map(|part| part.text.as_str()).collect()
            }
        }
    }

    fn is_blank(&self) -> bool {
        match self {
            Content::Text(text) => text.trim().is_empty(),
            Content::Parts(parts) => parts.iter().all(|part| part.text.trim().is_empty()),
        }
    }

    fn uses_tools(&self) -> bool {
        matches!(self, Content::Parts(parts) if parts.iter().any(|part| part.kind != PartKind::Text))
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(turns: &[(Role, &str)]) -> Conversation {
        let message = |&(role, text): &(Role, &str)| Message { role, content: Content::Text(text.into()) };
        Conversation { messages: turns.iter().map(message).collect() }
    }

    #[test]
    fn only_alternating_turns_that_end_with_an_answer_are_valid() {
        use Role::{Assistant, System, User};
        let check = |turns: &[(Role, &str)]| conversation(turns).validate();
        assert_eq!(check(&[(User, "hi"), (Assistant, "你好")]), Ok(()));
        assert_eq!(check(&[(System, "be brief"), (User, "hi"), (Assistant, "yo")]), Ok(()));
        assert_eq!(check(&[]), Err(ConversationError::NoMessages));
        assert_eq!(check(&[(System, "alone")]), Err(ConversationError::NoMessages));
        assert_eq!(check(&[(User, "hi")]), Err(ConversationError::NoAnswer));
        assert_eq!(check(&[(User, "hi"), (Assistant, " \n")]), Err(ConversationError::Empty(2)));
        assert_eq!(check(&[(User, "hi"), (System, "late")]), Err(ConversationError::LateSystem(2)));
        let error = check(&[(User, "hi"), (User, "hi?")]).unwrap_err();
        assert_eq!(error.to_string(), "message 2 has the role user, but it is the assistant's turn");
        assert!(matches!(check(&[(Assistant, "hi")]), Err(ConversationError::WrongTurn { at: 1, .. })));
        let python = Content::Parts(vec![Part { kind: PartKind::Python, text: "1+1".into() }]);
        let user = Conversation { messages: vec![Message { role: User, content: python }] };
        assert_eq!(user.validate(), Err(ConversationError::ToolUse(1)));
    }
}
