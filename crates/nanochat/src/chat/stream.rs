//! An endless stream of conversations packed into full rows, like the documents of pretraining (nanochat's loader of
//! mid-training). All tokens are trained; the weight of a task, a conversation or an answer scales its tokens.
//!
//! The conversations of each shuffled epoch are joined into one stream, which is the same on every rank. A batch takes
//! B·T + 1 tokens, as in [`crate::text::dataloader`]. A thread reads and tokenizes ahead of training.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::chat::mixture::{Mixture, MixtureError};
use crate::conversation::ConversationError;
use crate::model::batch::Batch;

/// The number of conversations tokenized together as a block, and the number of blocks made ahead: a few MB.
const BLOCK: usize = 256;
const BLOCKS_AHEAD: usize = 4;

/// The position of a stream's next token: token `token` of conversation `index` in the order of the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    pub epoch: u64,
    pub index: usize,
    pub token: usize,
    /// The number of conversations in the set, which must be the same when the run resumes.
    pub conversations: usize,
}

/// A stream that is read and tokenized in its own thread, which ends when the stream is dropped.
pub struct ChatStream {
    shape: [usize; 2],
    conversations: usize,
    ahead: Receiver<Result<TokenizedConversations, ChatStreamError>>,
    current: TokenizedConversations,
    /// The next token: its conversation in `current`, and its index in that conversation.
    conversation: usize,
    token: usize,
}

/// Conversations `first`, `first` + 1, … of an epoch: their tokens and the tokens' weights.
struct TokenizedConversations {
    epoch: u64,
    first: usize,
    conversations: Vec<(Vec<u32>, Vec<f32>)>,
}

/// The reasons why a stream has no batches.
#[derive(Debug, thiserror::Error)]
pub enum ChatStreamError {
    #[error("the saved position lies beyond its conversation: the data or the tokenizer is another one now")]
    ChangedConversation,
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    #[error(transparent)]
    Conversation(#[from] ConversationError),
}

impl ChatStream {
    /// Makes a stream of batches (b, t), from the start or from a saved position.
    pub fn new(
        mixture: &Arc<Mixture>,
        tokenizer: &Tokenizer,
        [b, t]: [usize; 2],
        seed: u64,
        from: Option<&StreamState>,
    ) -> Result<ChatStream, ChatStreamError> {
        assert!(b * t > 0, "a batch of ({b}, {t})");
        let n = mixture.len();
        let (epoch, first, token) = match from {
            None => (0, 0, 0),
            Some(state) => {
                mixture.check_same(state.conversations)?;
                (state.epoch, state.index, state.token)
            }
        };
        let (send, ahead) = sync_channel(BLOCKS_AHEAD);
        let reader =
            ConversationPacker { mixture: mixture.clone(), tokenizer: tokenizer.clone(), seed, send };
        std::thread::spawn(move || reader.run(epoch, first));
        let current = TokenizedConversations { epoch, first, conversations: Vec::new() };
        Ok(ChatStream { shape: [b, t], conversations: n, ahead, current, conversation: 0, token })
    }

    pub fn next_batch(&mut self) -> Result<Batch, ChatStreamError> {
        let len = self.shape[0] * self.shape[1];
        let (mut tokens, mut weights) = (Vec::with_capacity(len + 1), Vec::with_capacity(len + 1));
        while tokens.len() < len + 1 {
            let Some((ids, counts)) = self.current.conversations.get(self.conversation) else {
                self.current = self.ahead.recv().expect("the reader sends until it has sent an error")?;
                self.conversation = 0;
                continue;
            };
            let rest = ids.get(self.token..).ok_or(ChatStreamError::ChangedConversation)?;
            let n = rest.len().min(len + 1 - tokens.len());
            tokens.extend_from_slice(&rest[..n]);
            weights.extend_from_slice(&counts[self.token..self.token + n]);
            self.token += n;
            if self.token == ids.len() {
                (self.conversation, self.token) = (self.conversation + 1, 0);
            }
        }
        let targets = tokens[1..].to_vec();
        tokens.truncate(len);
        weights.remove(0);
        Ok(Batch { inputs: tokens, targets, weights, shape: self.shape })
    }

    /// Returns the position of the first token of the next batch.
    pub fn state(&self) -> StreamState {
        let TokenizedConversations { epoch, first, .. } = self.current;
        let index = first + self.conversation;
        StreamState { epoch, index, token: self.token, conversations: self.conversations }
    }

    /// Returns the number of epochs so far: 1 at the end of the first.
    pub fn progress(&self) -> f64 {
        let StreamState { epoch, index, .. } = self.state();
        epoch as f64 + (index as f64 / self.conversations as f64).min(1.0)
    }
}

/// The thread that reads for a stream.
struct ConversationPacker {
    mixture: Arc<Mixture>,
    tokenizer: Tokenizer,
    seed: u64,
    send: SyncSender<Result<TokenizedConversations, ChatStreamError>>,
}

impl ConversationPacker {
    /// Sends blocks until the stream is gone or an error has been sent.
    fn run(&self, first_epoch: u64, mut first: usize) {
        for epoch in first_epoch.. {
            let order = self.mixture.order(self.seed, epoch);
            for items in order[first..].chunks(BLOCK) {
                let tokens = |&item: &u32| self.tokens(item as usize);
                let conversations = items.par_iter().map(tokens).collect::<Result<Vec<_>, _>>();
                let block =
                    conversations.map(|conversations| TokenizedConversations { epoch, first, conversations });
                first += items.len();
                let last = block.is_err();
                if self.send.send(block).is_err() || last {
                    return;
                }
            }
            first = 0;
        }
    }

    fn tokens(&self, item: usize) -> Result<(Vec<u32>, Vec<f32>), ChatStreamError> {
        let rendered = self.mixture.get(item)?.render(&self.tokenizer, usize::MAX)?;
        Ok((rendered.ids, rendered.weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::{Content, Conversation, Message, Role};
    use crate::testing::tokenizer;

    fn mixture(n: usize) -> Arc<Mixture> {
        let message = |role, text: String| Message { role, content: Content::Text(text) };
        let conversation = |i: usize| Conversation {
            messages: vec![
                message(Role::User, format!("问 {i}")),
                message(Role::Assistant, "word ".repeat(1 + i % 40)),
            ],
        };
        Arc::new(Mixture::of((0..n).map(conversation).collect::<Vec<_>>()))
    }

    fn stream(n: usize, from: Option<&StreamState>) -> ChatStream {
        ChatStream::new(&mixture(n), &tokenizer(), [2, 90], 42, from).unwrap()
    }

    #[test]
    fn batches_are_the_shuffled_conversations_cut_in_pieces() {
        let mixture = mixture(700);
        let mut stream = stream(700, None);
        let render =
            |&i: &u32| mixture.get(i as usize).unwrap().render(&tokenizer(), usize::MAX).unwrap().ids;
        let mut tokens: Vec<u32> = mixture.order(42, 0).iter().flat_map(render).collect();
        let first = tokens.len();
        tokens.extend(mixture.order(42, 1).iter().flat_map(render));
        let mut given = 0;
        while given + 181 <= first + 2_000 {
            let batch = stream.next_batch().unwrap();
            assert_eq!(batch.inputs, tokens[given..given + 180]);
            assert_eq!(batch.targets, tokens[given + 1..given + 181]);
            assert!(batch.weights == vec![1.0; 180]);
            given += 181;
            assert_eq!(stream.progress() >= 1.0, given >= first, "{given} of {first}");
        }
    }

    #[test]
    fn a_resumed_stream_goes_on_exactly() {
        let (mut straight, mut resumed) = (stream(600, None), stream(600, None));
        for stop in [0, 1, 30, 95, 7, 500] {
            for _ in 0..stop {
                assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
            }
            let saved = serde_json::to_string(&resumed.state()).unwrap();
            resumed = stream(600, Some(&serde_json::from_str(&saved).unwrap()));
            assert_eq!(straight.state(), resumed.state());
        }
        assert!(straight.progress() > 1.0);
        let other = StreamState { conversations: 5, ..straight.state() };
        let error = ChatStream::new(&mixture(600), &tokenizer(), [2, 90], 42, Some(&other));
        assert!(matches!(
            error,
            Err(ChatStreamError::Mixture(MixtureError::OtherConversations { saved: 5, found: 600 }))
        ));
    }
}
