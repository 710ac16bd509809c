//! A training example: a conversation and its weights.

use nanochat_tokenizer::Tokenizer;

use super::{Conversation, ConversationError, Rendered, Role};

/// A training example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub conversation: Conversation,
    /// The factor of the losses of all its tokens.
    pub weight: f32,
    /// The factor for the tokens of each message; empty if all are 1. An assistant's message of weight 0 is context:
    /// the model sees it but is not trained to say it.
    pub message_weights: Vec<f32>,
}

impl From<Conversation> for Example {
    fn from(conversation: Conversation) -> Example {
        Example { conversation, weight: 1.0, message_weights: Vec::new() }
    }
}

impl Example {
    /// Whether any message of the assistant has a weight above 0.
    pub fn is_learned(&self) -> bool {
        let learned = |i: usize| self.message_weight(i) > 0.0;
        let mut messages = self.conversation.messages.iter().enumerate();
        self.weight > 0.0 && messages.any(|(i, message)| message.role == Role::Assistant && learned(i))
    }

    /// Renders the conversation like [`Conversation::render`], with the weights.
    pub fn render(&self, tokenizer: &Tokenizer, max_len: usize) -> Result<Rendered, ConversationError> {
        let mut rendered =
            self.conversation.render_weighing(tokenizer, max_len, |i| self.message_weight(i))?;
        rendered.weights.iter_mut().for_each(|weight| *weight *= self.weight);
        rendered.mask.iter_mut().for_each(|trained| *trained &= self.weight > 0.0);
        Ok(rendered)
    }

    fn message_weight(&self, i: usize) -> f32 {
        self.message_weights.get(i).copied().unwrap_or(1.0)
    }
}
