//! An endless stream of chat batches: one conversation a row, padded on the right (nanochat's SFT loader).
//!
//! The order is an endless sequence, a new shuffle each epoch. It is taken in windows, and a window is sorted by
//! length before it is cut into batches, which are then shuffled: rows of a batch are about equally
//! long, so little is padding. All of it follows from (seed, position), so any position can be resumed.

use nanochat_tensor::Rng;
use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::conversation::{Conversation, ConversationError, Rendered};
use crate::dataset::DataError;

/// Steps sorted together (fewer if the set is smaller: a batch must not repeat a conversation). More would
/// save little padding and mix less.
const STEPS_PER_WINDOW: u64 = 32;
/// Row lengths are rounded up to this: aligned rows are faster, and few shapes occur.
const ROUND_TO: usize = 8;
/// First parts of the random streams' keys, so that no two uses share a stream.
const SHUFFLE: u64 = 1;
const WINDOW: u64 = 2;

/// How many conversations have been given, over all ranks: `epoch` · `conversations` + `index`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatState {
    pub epoch: u64,
    pub index: usize,
    /// The size of the set, which must be the same when the run goes on.
    pub conversations: usize,
}

/// What [`ChatLoader::new`] did to the conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fitted {
    /// Kept, cut ones included.
    pub kept: usize,
    /// Too long, cut at the end of an exchange or, if the first alone is too long, anywhere.
    pub cut: usize,
    /// Left out: nothing that the assistant says fits.
    pub skipped: usize,
}

pub struct ChatLoader {
    rows: Vec<Row>,
    fitted: Fitted,
    padding: u32,
    batch_size: usize,
    max_len: usize,
    seed: u64,
    rank: usize,
    world: usize,
    /// Batches given to each rank so far.
    step: u64,
    /// The steps of the window that `step` is in, each with the rows of all ranks.
    window: Vec<Vec<usize>>,
}

/// A rendered conversation, ids and mask of equal length.
struct Row {
    ids: Vec<u32>,
    mask: Vec<bool>,
}

impl ChatLoader {
    /// Batches of up to (b, t) for rank `rank` of `world`. Tokenises everything at once, so that a
    /// conversation that cannot be used is found before training.
    pub fn new(
        conversations: &[Conversation],
        tokenizer: &Tokenizer,
        [b, t]: [usize; 2],
        [rank, world]: [usize; 2],
        seed: u64,
        from: Option<&ChatState>,
    ) -> Result<ChatLoader, DataError> {
        assert!(b * t > 0 && rank < world, "a batch of ({b}, {t}) for rank {rank} of {world}");
        let padding = tokenizer.special("<|bos|>").ok_or(ConversationError::NoSpecial("<|bos|>"))?;
        // A row of t inputs has t targets: t + 1 tokens.
        let rendered: Vec<Rendered> =
            conversations.par_iter().map(|c| c.render(tokenizer, t + 1)).collect::<Result<_, _>>()?;
        let mut fitted = Fitted { cut: rendered.iter().filter(|r| r.cut).count(), ..Fitted::default() };
        // The first token is never a target. A row without targets has a loss of 0/0.
        let trained = |row: &Rendered| row.mask.iter().skip(1).any(|&trained| trained);
        let rows: Vec<Row> = rendered
            .into_iter()
            .filter(trained)
            .map(|Rendered { ids, mask, .. }| Row { ids, mask })
            .collect();
        if rows.is_empty() {
            return Err(DataError::NoTrainedTokens { read: conversations.len(), max_len: t });
        }
        fitted.kept = rows.len();
        fitted.skipped = conversations.len() - rows.len();
        let step = match from {
            None => 0,
            Some(state) if state.conversations != rows.len() => {
                return Err(DataError::OtherConversations { saved: state.conversations, found: rows.len() });
            }
            Some(state) => (state.epoch * rows.len() as u64 + state.index as u64) / (b * world) as u64,
        };
        let window = Vec::new();
        let mut loader =
            ChatLoader { rows, fitted, padding, batch_size: b, max_len: t, seed, rank, world, step, window };
        loader.window = loader.window_at(step / loader.steps_per_window());
        Ok(loader)
    }

    pub fn fitted(&self) -> Fitted {
        self.fitted
    }

    /// The next batch: T is the longest row's length, at most the `t` given.
    pub fn next_batch(&mut self) -> Batch {
        let steps_per_window = self.steps_per_window();
        let rows = &self.window[(self.step % steps_per_window) as usize];
        let batch = self.batch_of(&rows[self.rank * self.batch_size..][..self.batch_size]);
        self.step += 1;
        if self.step.is_multiple_of(steps_per_window) {
            self.window = self.window_at(self.step / steps_per_window);
        }
        batch
    }

    /// The position of the next batch, the same on every rank.
    pub fn state(&self) -> ChatState {
        let (given, n) = (self.step * self.rows_per_step(), self.rows.len() as u64);
        ChatState { epoch: given / n, index: (given % n) as usize, conversations: self.rows.len() }
    }

    fn rows_per_step(&self) -> u64 {
        (self.batch_size * self.world) as u64
    }

    fn steps_per_window(&self) -> u64 {
        (self.rows.len() as u64 / self.rows_per_step()).clamp(1, STEPS_PER_WINDOW)
    }

    fn batch_of(&self, rows: &[usize]) -> Batch {
        let longest = rows.iter().map(|&row| self.rows[row].ids.len() - 1).max().unwrap_or(0);
        let t = longest.next_multiple_of(ROUND_TO).min(self.max_len);
        let (mut inputs, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &row) in rows.iter().enumerate() {
            let Row { ids, mask } = &self.rows[row];
            inputs.extend_from_slice(&ids[..ids.len() - 1]);
            targets.extend_from_slice(&ids[1..]);
            weights.extend(mask[1..].iter().map(|&trained| if trained { 1.0 } else { 0.0 }));
            let end = (i + 1) * t;
            inputs.resize(end, self.padding);
            targets.resize(end, self.padding);
            weights.resize(end, 0.0);
        }
        Batch { inputs, targets, weights, shape: [rows.len(), t] }
    }

    /// The rows of every step of a window, in the order the steps are given.
    fn window_at(&self, window: u64) -> Vec<Vec<usize>> {
        let (len, n) = (self.steps_per_window() * self.rows_per_step(), self.rows.len() as u64);
        let mut order = (u64::MAX, Vec::new());
        let items = (window * len..(window + 1) * len).map(|i| {
            if order.0 != i / n {
                order = (i / n, self.order(i / n));
            }
            order.1[(i % n) as usize]
        });
        let mut items: Vec<usize> = items.collect();
        items.sort_by_key(|&row| self.rows[row].ids.len());
        let mut steps: Vec<Vec<usize>> =
            items.chunks(self.rows_per_step() as usize).map(<[usize]>::to_vec).collect();
        Rng::new(&[self.seed, WINDOW, window]).shuffle(&mut steps);
        steps
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        Rng::new(&[self.seed, SHUFFLE, epoch]).shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::conversation::{Content, Message, Role};
    use crate::testing::tokenizer;

    fn conversation(question: &str, answer: &str) -> Conversation {
        let message = |role, text: &str| Message { role, content: Content::Text(text.into()) };
        Conversation { messages: vec![message(Role::User, question), message(Role::Assistant, answer)] }
    }

    /// Number i is asked about and repeated i % 50 times.
    fn set(n: usize) -> Vec<Conversation> {
        (0..n).map(|i| conversation(&format!("q{i:04}"), &format!("{i:04}").repeat(1 + i % 50))).collect()
    }

    fn loader(n: usize, ranks: [usize; 2], from: Option<&ChatState>) -> ChatLoader {
        ChatLoader::new(&set(n), &tokenizer(), [4, 300], ranks, 7, from).unwrap()
    }

    #[test]
    fn a_row_is_a_conversation_moved_by_one_and_padded() {
        let tokenizer = tokenizer();
        let conversations = [conversation("q", "ab"), conversation("q", "abcdefgh")];
        let mut loader = ChatLoader::new(&conversations, &tokenizer, [2, 300], [0, 1], 0, None).unwrap();
        let batch = loader.next_batch();
        assert_eq!(batch.shape, [2, 16]);
        let short = conversations[0].render(&tokenizer, 100).unwrap();
        let n = short.ids.len() - 1;
        let bos = tokenizer.special("<|bos|>").unwrap();
        // The shorter one is row 0, by the sorting.
        assert_eq!(batch.inputs[..n], short.ids[..n]);
        assert_eq!(batch.targets[..n], short.ids[1..]);
        assert_eq!(batch.inputs[n..16], vec![bos; 16 - n]);
        let trained: Vec<bool> = batch.weights[..16].iter().map(|&w| w == 1.0).collect();
        assert_eq!(trained[..n], short.mask[1..]);
        assert!(!trained[n..].contains(&true));
    }

    #[test]
    fn every_epoch_gives_every_conversation_once_over_all_ranks() {
        let mut loaders = [loader(256, [0, 2], None), loader(256, [1, 2], None)];
        for epoch in 1..4 {
            let mut seen: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
            for _ in 0..256 / 8 {
                for loader in &mut loaders {
                    let batch = loader.next_batch();
                    for row in batch.inputs.chunks(batch.shape[1]) {
                        *seen.entry(row[..7].to_vec()).or_default() += 1; // bos, user_start, qNNNN
                    }
                }
            }
            assert!(seen.len() == 256 && seen.values().all(|&times| times == 1));
            assert_eq!(loaders[0].state(), ChatState { epoch, index: 0, conversations: 256 });
            assert_eq!(loaders[0].state(), loaders[1].state());
        }
    }

    #[test]
    fn little_is_padding() {
        let mut loader = loader(1_000, [0, 1], None);
        let (mut tokens, mut places) = (0, 0);
        for _ in 0..250 {
            let batch = loader.next_batch();
            let padding = batch.inputs.iter().filter(|&&id| id == loader.padding).count() - batch.shape[0];
            places += batch.inputs.len();
            tokens += batch.inputs.len() - padding;
        }
        assert!(tokens as f64 / places as f64 > 0.9, "{tokens} tokens in {places} places");
    }

    #[test]
    fn a_resumed_loader_goes_on_exactly() {
        for n in [3, 37, 500] {
            let mut straight = loader(n, [1, 2], None);
            let mut resumed = loader(n, [1, 2], None);
            for stop in [0, 1, 5, 31, 32, 33, 70] {
                for _ in 0..stop {
                    assert_eq!(straight.next_batch(), resumed.next_batch());
                }
                let saved = serde_json::to_string(&resumed.state()).unwrap();
                resumed = loader(n, [1, 2], Some(&serde_json::from_str(&saved).unwrap()));
                assert_eq!(straight.state(), resumed.state());
            }
            assert_eq!(straight.next_batch(), resumed.next_batch());
        }
        let other = loader(10, [0, 1], None).state();
        let error = ChatLoader::new(&set(11), &tokenizer(), [4, 300], [0, 1], 7, Some(&other)).err().unwrap();
        assert!(error.to_string().contains("10") && error.to_string().contains("11"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_cut_or_left_out() {
        let conversations = [
            conversation("q", "short"),
            conversation("q", &"long ".repeat(100)),
            conversation(&"long ".repeat(100), "a"),
        ];
        let mut loader = ChatLoader::new(&conversations, &tokenizer(), [1, 20], [0, 1], 7, None).unwrap();
        assert_eq!(loader.fitted(), Fitted { kept: 2, cut: 2, skipped: 1 });
        for _ in 0..8 {
            let batch = loader.next_batch();
            assert!(batch.shape[1] <= 20 && batch.weights.contains(&1.0));
        }
        let error =
            ChatLoader::new(&conversations[2..], &tokenizer(), [1, 20], [0, 1], 7, None).err().unwrap();
        assert!(matches!(error, DataError::NoTrainedTokens { .. }), "{error}");
    }
}
