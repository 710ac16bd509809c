//! An endless stream of chat batches with one conversation per row, padded on the right (nanochat's SFT loader).
//!
//! Conversations are shuffled anew each epoch and taken in windows. A window is sorted by length and cut into batches,
//! which are then shuffled: the rows of a batch have similar lengths, so there is little padding. The order depends
//! only on (seed, position), so any position can be resumed. A thread reads and tokenizes windows ahead of training; a
//! conversation without trained tokens is replaced by the next one. The sequence of batches is the same on every rank.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nanochat_tensor::Rng;
use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::chat::mixture::{Mixture, MixtureError};
use crate::conversation::ConversationError;
use crate::model::batch::{Batch, Row};

/// The number of batches sorted together (fewer if the set is smaller, since a batch must not repeat a conversation). A
/// larger number would save little padding and mix less.
const BATCHES_PER_WINDOW: usize = 32;
/// The number of batches made ahead of training: a few MB, enough to hide the time to make the next window.
const BATCHES_AHEAD: usize = 64;
/// The first part of the random keys of windows; the mixture uses another.
const WINDOW: u64 = 2;

/// The position of a loader's next batch: number `batch` of the window that begins at conversation `index` of `epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatState {
    pub epoch: u64,
    pub index: usize,
    pub batch: usize,
    /// The number of conversations in the set, which must be the same when the run resumes.
    pub conversations: usize,
    /// The counts for all conversations before the window.
    pub fitted: Fitted,
}

/// The numbers of conversations kept, cut and skipped so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitted {
    /// Conversations kept, including cut ones.
    pub kept: usize,
    /// Conversations that were too long and were cut at the end of an exchange or, if the first exchange alone is too
    /// long, anywhere.
    pub cut: usize,
    /// Conversations left out, since no text of the assistant fits.
    pub skipped: usize,
}

/// A loader that reads and tokenizes in its own thread, which ends when the loader is dropped.
pub struct ChatLoader {
    ahead: Receiver<Result<Next, ChatLoaderError>>,
    state: ChatState,
    fitted: Fitted,
}

/// A batch, and the loader's state after it.
struct Next {
    batch: Batch,
    after: ChatState,
    /// The counts, including the current window.
    fitted: Fitted,
}

/// The reasons why a loader has no batches.
#[derive(Debug, thiserror::Error)]
pub enum ChatLoaderError {
    #[error(
        "no conversation, of {read} in all, has anything to learn from (assistant text within {max_len} tokens)"
    )]
    NoTrainedTokens { read: usize, max_len: usize },
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    #[error(transparent)]
    Conversation(#[from] ConversationError),
}

impl ChatLoader {
    /// Makes a loader of batches of up to (b, t), from the start or from a saved position.
    pub fn new(
        mixture: &Arc<Mixture>,
        tokenizer: &Tokenizer,
        [b, t]: [usize; 2],
        seed: u64,
        from: Option<&ChatState>,
    ) -> Result<ChatLoader, ChatLoaderError> {
        assert!(b * t > 0, "a batch of ({b}, {t})");
        let padding = tokenizer.need_special("<|bos|>").map_err(ConversationError::from)?;
        let n = mixture.len();
        let state = match from {
            None => ChatState { epoch: 0, index: 0, batch: 0, conversations: n, fitted: Fitted::default() },
            Some(state) => {
                mixture.check_same(state.conversations)?;
                state.clone()
            }
        };
        let (send, ahead) = sync_channel(BATCHES_AHEAD);
        let order = mixture.order(seed, state.epoch);
        let (mixture, tokenizer) = (mixture.clone(), tokenizer.clone());
        let reader = ConversationReader { mixture, tokenizer, padding, shape: [b, t], seed, order, send };
        let start = state.clone();
        std::thread::spawn(move || reader.run(start));
        Ok(ChatLoader { ahead, fitted: state.fitted, state })
    }

    /// Returns the next batch. Its T is the length of the longest row, rounded up, at most the given `t`.
    pub fn next_batch(&mut self) -> Result<Batch, ChatLoaderError> {
        let Next { batch, after, fitted } =
            self.ahead.recv().expect("the reader sends until it has sent an error")?;
        (self.state, self.fitted) = (after, fitted);
        Ok(batch)
    }

    /// Returns the position of the next batch.
    pub fn state(&self) -> &ChatState {
        &self.state
    }

    /// Returns the counts of conversations read so far, up to the end of the last batch's window.
    pub fn fitted(&self) -> Fitted {
        self.fitted
    }
}

/// The thread that reads for a loader.
struct ConversationReader {
    mixture: Arc<Mixture>,
    tokenizer: Tokenizer,
    padding: u32,
    shape: [usize; 2],
    seed: u64,
    /// The order of the current epoch.
    order: Vec<u32>,
    send: SyncSender<Result<Next, ChatLoaderError>>,
}

impl ConversationReader {
    /// Sends batches until the loader is gone or an error has been sent.
    fn run(mut self, mut state: ChatState) {
        loop {
            let mut next = state.clone();
            let batches = match self.window(&mut next) {
                Ok(batches) => batches,
                Err(error) => return drop(self.send.send(Err(error))),
            };
            let fitted = next.fitted;
            for (i, rows) in batches.iter().enumerate().skip(state.batch) {
                let batch = Batch::padded(rows, self.shape[1], self.padding);
                let after = match i + 1 == batches.len() {
                    true => next.clone(),
                    false => ChatState { batch: i + 1, ..state.clone() },
                };
                if self.send.send(Ok(Next { batch, after, fitted })).is_err() {
                    return;
                }
            }
            state = next;
        }
    }

    /// Returns the rows of every batch of the window at `state`, in their final order, and moves `state` to the next
    /// window. Fails if no conversation has trained tokens.
    fn window(&mut self, state: &mut ChatState) -> Result<Vec<Vec<Row>>, ChatLoaderError> {
        let b = self.shape[0];
        let batches = (self.mixture.len() / b).clamp(1, BATCHES_PER_WINDOW);
        let key = [self.seed, WINDOW, state.epoch, state.index as u64];
        let (mut rows, mut skipped_in_a_row) = (Vec::new(), 0);
        while rows.len() < batches * b {
            let missing = batches * b - rows.len();
            let taken: Vec<u32> = (0..missing).map(|_| self.take(state)).collect();
            let rendered = taken.par_iter().map(|&item| self.render(item)).collect::<Result<Vec<_>, _>>()?;
            let before = rows.len();
            for (row, cut) in rendered {
                // The first token is never a target. A row without targets has a loss of 0/0.
                let kept = row.weights.iter().skip(1).any(|&weight| weight > 0.0);
                state.fitted.kept += usize::from(kept);
                state.fitted.cut += usize::from(kept && cut);
                state.fitted.skipped += usize::from(!kept);
                rows.extend(kept.then_some(row));
            }
            skipped_in_a_row = if rows.len() > before { 0 } else { skipped_in_a_row + missing };
            // Each epoch has its own order, so this many in a row include a whole epoch.
            if skipped_in_a_row >= 2 * self.mixture.len() - 1 {
                return Err(ChatLoaderError::NoTrainedTokens {
                    read: self.mixture.len(),
                    max_len: self.shape[1],
                });
            }
        }
        state.batch = 0;
        rows.sort_by_key(|row| row.ids.len());
        let mut rows = rows.into_iter();
        let mut batches: Vec<Vec<Row>> = (0..batches).map(|_| rows.by_ref().take(b).collect()).collect();
        Rng::new(&key).shuffle(&mut batches);
        Ok(batches)
    }

    /// Returns the conversation at `state`, and moves `state` to the next one.
    fn take(&mut self, state: &mut ChatState) -> u32 {
        let item = self.order[state.index];
        state.index += 1;
        if state.index == self.mixture.len() {
            (state.epoch, state.index) = (state.epoch + 1, 0);
            self.order = self.mixture.order(self.seed, state.epoch);
        }
        item
    }

    /// Returns a conversation as a row, and whether it was cut.
    fn render(&self, item: u32) -> Result<(Row, bool), ChatLoaderError> {
        // A row of t inputs has t targets: t + 1 tokens.
        let rendered = self.mixture.get(item as usize)?.render(&self.tokenizer, self.shape[1] + 1)?;
        let weighed = rendered.mask.iter().zip(&rendered.weights);
        let weights = weighed.map(|(&trained, &weight)| if trained { weight } else { 0.0 }).collect();
        Ok((Row { ids: rendered.ids, weights }, rendered.cut))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::conversation::{Content, Conversation, Message, Role};
    use crate::testing::tokenizer;

    fn conversation(question: &str, answer: &str) -> Conversation {
        let message = |role, text: &str| Message { role, content: Content::Text(text.into()) };
        Conversation { messages: vec![message(Role::User, question), message(Role::Assistant, answer)] }
    }

    /// Returns conversations in which question i is answered with i, repeated 1 + i % 50 times.
    fn set(n: usize) -> Vec<Conversation> {
        (0..n).map(|i| conversation(&format!("q{i:04}"), &format!("{i:04}").repeat(1 + i % 50))).collect()
    }

    fn mixture(conversations: Vec<Conversation>) -> Arc<Mixture> {
        Arc::new(Mixture::of(conversations))
    }

    fn loader(n: usize, from: Option<&ChatState>) -> ChatLoader {
        ChatLoader::new(&mixture(set(n)), &tokenizer(), [4, 300], 7, from).unwrap()
    }

    #[test]
    fn a_row_is_a_conversation_moved_by_one_and_padded() {
        let tokenizer = tokenizer();
        let conversations = [conversation("q", "ab"), conversation("q", "abcdefgh")];
        let mut loader =
            ChatLoader::new(&mixture(conversations.to_vec()), &tokenizer, [2, 300], 0, None).unwrap();
        let batch = loader.next_batch().unwrap();
        assert_eq!(batch.shape, [2, 16]);
        let short = conversations[0].render(&tokenizer, 100).unwrap();
        let n = short.ids.len() - 1;
        let bos = tokenizer.special("<|bos|>").unwrap();
        // Sorting makes the shorter one row 0.
        assert_eq!(batch.inputs[..n], short.ids[..n]);
        assert_eq!(batch.targets[..n], short.ids[1..]);
        assert_eq!(batch.inputs[n..16], vec![bos; 16 - n]);
        let trained: Vec<bool> = batch.weights[..16].iter().map(|&w| w == 1.0).collect();
        assert_eq!(trained[..n], short.mask[1..]);
        assert!(!trained[n..].contains(&true));
    }

    #[test]
    fn every_epoch_gives_every_conversation_once() {
        let mut loader = loader(256, None);
        for epoch in 1..4 {
            let mut seen: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
            for _ in 0..256 / 4 {
                let batch = loader.next_batch().unwrap();
                for row in batch.inputs.chunks(batch.shape[1]) {
                    *seen.entry(row[..7].to_vec()).or_default() += 1; // bos, user_start, qNNNN
                }
            }
            assert!(seen.len() == 256 && seen.values().all(|&times| times == 1));
            let state = loader.state();
            assert_eq!((state.epoch, state.index, state.fitted.kept), (epoch, 0, 256 * epoch as usize));
        }
    }

    #[test]
    fn little_is_padding() {
        let mut loader = loader(1_000, None);
        let padding = tokenizer().special("<|bos|>").unwrap();
        let (mut tokens, mut places) = (0, 0);
        for _ in 0..250 {
            let batch = loader.next_batch().unwrap();
            let padding = batch.inputs.iter().filter(|&&id| id == padding).count() - batch.shape[0];
            places += batch.inputs.len();
            tokens += batch.inputs.len() - padding;
        }
        assert!(tokens as f64 / places as f64 > 0.9, "{tokens} tokens in {places} places");
    }

    #[test]
    fn a_resumed_loader_goes_on_exactly() {
        for n in [3, 37, 500] {
            let mut straight = loader(n, None);
            let mut resumed = loader(n, None);
            for stop in [0, 1, 5, 31, 32, 33, 70] {
                for _ in 0..stop {
                    assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
                }
                let saved = serde_json::to_string(&resumed.state()).unwrap();
                resumed = loader(n, Some(&serde_json::from_str(&saved).unwrap()));
                assert_eq!(straight.state(), resumed.state());
            }
            assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
        }
        let other = loader(10, None).state().clone();
        let error =
            ChatLoader::new(&mixture(set(11)), &tokenizer(), [4, 300], 7, Some(&other)).err().unwrap();
        assert!(error.to_string().contains("10") && error.to_string().contains("11"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_cut_or_left_out() {
        let conversations = [
            conversation("q", "short"),
            conversation("q", &"long ".repeat(100)),
            conversation(&"long ".repeat(100), "a"),
        ];
        let new = |conversations: &[Conversation]| {
            ChatLoader::new(&mixture(conversations.to_vec()), &tokenizer(), [1, 20], 7, None).unwrap()
        };
        let mut loader = new(&conversations);
        for _ in 0..8 {
            let batch = loader.next_batch().unwrap();
            assert!(batch.shape[1] <= 20 && batch.weights.contains(&1.0));
        }
        // Each window has three rows; the next conversation replaces the one that is left out.
        let Fitted { kept, cut, skipped } = loader.fitted();
        assert!(kept == 9 && cut >= 3 && skipped >= 3, "{kept} {cut} {skipped}");
        let error = new(&conversations[2..]).next_batch().unwrap_err();
        assert!(matches!(error, ChatLoaderError::NoTrainedTokens { .. }), "{error}");
    }
}
