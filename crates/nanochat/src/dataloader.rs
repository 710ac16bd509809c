//! An endless stream of pretraining batches with an exact position (nanochat's tokenizing distributed loader).
//!
//! Documents become tokens with `<|bos|>` in front and are joined to one stream. A batch takes B·T + 1 tokens: inputs
//! are the first B·T as B rows, targets the same moved by one, so rows continue one another.
//!
//! There is one stream, whatever the number of ranks: each makes all of it and trains on every world-th batch. So a
//! step sees the same tokens on any number of GPUs, and a run goes on with another number. A rank cannot pass over the
//! documents of others, because only tokenising tells how many tokens they have, and so where the next batch begins;
//! reading other rows than they do, as nanochat's ranks, makes the order depend on their number. What it costs: where
//! eight H100 train a d20 with 1.3M tokens a second, each rank tokenises 6 MB of text a second, and 52 where eight H200
//! train a d8 with 11M, while one thread does 92 MB of English or 60 of Chinese.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::conversation::ConversationError;
use crate::dataset::{Chunk, DataError, RowAt, Shards, Split};
use crate::mix::furthest_behind;

/// Chunks tokenised ahead of training: 4 × 128 documents, a few MB, hide a slow disk's hiccups.
const CHUNKS_AHEAD: usize = 4;
/// Batches packed ahead: all of a usual step, 8 of 65,536 tokens, so that a GPU does not wait for them.
const BATCHES_AHEAD: usize = 8;

/// Where a loader is: resuming from it continues the stream exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    pub sources: Vec<SourceState>,
}

/// The next token that a source gives: token `token` of the document (its `<|bos|>` is token 0) in row `document`
/// of row group `row_group`. At most one source of a mixture is inside a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    pub epoch: u64,
    pub shard: String,
    pub row_group: usize,
    pub document: usize,
    pub token: usize,
    /// Tokens of all documents that it has given whole: what the weights of a mixture are measured on.
    pub taken: u64,
}

/// One corpus, or several by weight: the next document comes from the one whose tokens are furthest behind its
/// share. Reads, tokenises and packs in threads of its own, which end when this is dropped.
pub struct DataLoader {
    ahead: Receiver<Result<(Batch, LoaderState), DataError>>,
    state: LoaderState,
}

/// The thread that cuts tokens into batches.
struct Packer {
    sources: Vec<Source>,
    weights: Vec<f64>,
    shape: [usize; 2],
    /// The source that the next token comes from.
    current: usize,
}

/// A corpus, read and tokenised by a thread of its own.
struct Source {
    shards: Shards,
    split: Split,
    ahead: Receiver<Result<Tokens, DataError>>,
    chunk: Tokens,
    /// The next token: which document of `chunk`, which token of it.
    document: usize,
    token: usize,
    taken: u64,
}

/// A tokenised [`Chunk`]; rows without text are empty.
struct Tokens {
    epoch: u64,
    at: RowAt,
    documents: Vec<Vec<u32>>,
}

impl DataLoader {
    /// Batches of (b, t), from the start or from a saved position.
    pub fn new(
        shards: &Shards,
        split: Split,
        tokenizer: &Tokenizer,
        shape: [usize; 2],
        from: Option<&LoaderState>,
    ) -> Result<DataLoader, DataError> {
        DataLoader::mixed(&[(shards.clone(), 1.0)], split, tokenizer, shape, from)
    }

    /// As [`DataLoader::new`], from several corpora with their weights (above 0). Each is gone through again
    /// and again, at its own pace.
    pub fn mixed(
        corpora: &[(Shards, f64)],
        split: Split,
        tokenizer: &Tokenizer,
        [b, t]: [usize; 2],
        from: Option<&LoaderState>,
    ) -> Result<DataLoader, DataError> {
        assert!(b * t > 0, "a batch of ({b}, {t})");
        if let Some(state) = from
            && state.sources.len() != corpora.len()
        {
            return Err(DataError::OtherSources { saved: state.sources.len(), found: corpora.len() });
        }
        let open = |(i, (shards, _)): (usize, &(Shards, f64))| {
            Source::open(shards, split, tokenizer, from.map(|state| &state.sources[i]))
        };
        let sources: Vec<Source> = corpora.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        let weights: Vec<f64> = corpora.iter().map(|(_, weight)| *weight).collect();
        let inside = sources.iter().position(|source| source.token > 0);
        let mut packer = Packer { sources, weights, shape: [b, t], current: 0 };
        packer.current = inside.unwrap_or_else(|| packer.next_source());
        let state = packer.state();
        let (send, ahead) = sync_channel(BATCHES_AHEAD);
        std::thread::spawn(move || packer.run(&send));
        Ok(DataLoader { ahead, state })
    }

    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        let (batch, state) = self.ahead.recv().expect("the packer sends until it has sent an error")?;
        self.state = state;
        Ok(batch)
    }

    /// The position of the first token of the next batch.
    pub fn state(&self) -> LoaderState {
        self.state.clone()
    }
}

impl Packer {
    /// Sends batches, each with the position after it, until the loader is gone or an error has been sent.
    fn run(mut self, send: &SyncSender<Result<(Batch, LoaderState), DataError>>) {
        loop {
            let next = self.next_batch().map(|batch| (batch, self.state()));
            let last = next.is_err();
            if send.send(next).is_err() || last {
                return;
            }
        }
    }

    fn next_batch(&mut self) -> Result<Batch, DataError> {
        let len = self.shape[0] * self.shape[1];
        let mut tokens = Vec::with_capacity(len + 1);
        while tokens.len() < len + 1 {
            if self.sources[self.current].take(len + 1, &mut tokens)? {
                self.current = self.next_source();
            }
        }
        let targets = tokens[1..].to_vec();
        tokens.truncate(len);
        Ok(Batch { inputs: tokens, targets, weights: vec![1.0; len], shape: self.shape })
    }

    fn state(&self) -> LoaderState {
        LoaderState { sources: self.sources.iter().map(Source::state).collect() }
    }

    fn next_source(&self) -> usize {
        let taken: Vec<u64> = self.sources.iter().map(|source| source.taken).collect();
        furthest_behind(&self.weights, &taken)
    }
}

impl Source {
    fn open(
        shards: &Shards,
        split: Split,
        tokenizer: &Tokenizer,
        from: Option<&SourceState>,
    ) -> Result<Source, DataError> {
        shards.check_not_empty(split)?;
        let bos = tokenizer.special("<|bos|>").ok_or(ConversationError::NoSpecial("<|bos|>"))?;
        let (epoch, at) = match from {
            None => (0, RowAt::default()),
            Some(state) => {
                let shard = shards.shard_index(split, &state.shard)?;
                (state.epoch, RowAt { shard, row_group: state.row_group, row: state.document })
            }
        };
        let (send, ahead) = sync_channel(CHUNKS_AHEAD);
        let (shards, tokenizer) = (shards.clone(), tokenizer.clone());
        let reader = Reader { shards: shards.clone(), split, tokenizer, bos, send };
        std::thread::spawn(move || reader.run(epoch, at));
        let chunk = Tokens { epoch, at, documents: Vec::new() };
        let (token, taken) = from.map_or((0, 0), |state| (state.token, state.taken));
        Ok(Source { shards, split, ahead, chunk, document: 0, token, taken })
    }

    /// Appends the rest of the document at hand until there are `len` tokens; whether it is at its end.
    fn take(&mut self, len: usize, tokens: &mut Vec<u32>) -> Result<bool, DataError> {
        // Rows without text are passed over before they could be chosen.
        while self.chunk.documents.get(self.document).is_none_or(Vec::is_empty) {
            match self.document < self.chunk.documents.len() {
                true if self.token > 0 => return Err(self.changed()),
                true => self.document += 1,
                false => self.receive()?,
            }
        }
        let document = &self.chunk.documents[self.document];
        let rest = document.get(self.token..).ok_or_else(|| self.changed())?;
        let n = rest.len().min(len - tokens.len());
        tokens.extend_from_slice(&rest[..n]);
        self.token += n;
        if self.token < document.len() {
            return Ok(false);
        }
        self.taken += document.len() as u64;
        (self.document, self.token) = (self.document + 1, 0);
        Ok(true)
    }

    fn state(&self) -> SourceState {
        let at = self.chunk.at;
        SourceState {
            epoch: self.chunk.epoch,
            shard: self.shards.shard_name(self.split, at.shard).into(),
            row_group: at.row_group,
            document: at.row + self.document,
            token: self.token,
            taken: self.taken,
        }
    }

    fn receive(&mut self) -> Result<(), DataError> {
        let next = self.ahead.recv().expect("the reader sends until it has sent an error")?;
        // Only a resumed loader waits for its first document with tokens of it already used.
        if self.token > 0 && next.at != self.chunk.at {
            return Err(self.changed());
        }
        self.chunk = next;
        self.document = 0;
        Ok(())
    }

    fn changed(&self) -> DataError {
        DataError::ChangedShard { shard: self.shards.shard_name(self.split, self.chunk.at.shard).into() }
    }
}

/// The thread that reads and tokenises.
struct Reader {
    shards: Shards,
    split: Split,
    tokenizer: Tokenizer,
    bos: u32,
    send: SyncSender<Result<Tokens, DataError>>,
}

impl Reader {
    /// Sends chunks until the loader is gone or an error has been sent.
    fn run(&self, first_epoch: u64, mut from: RowAt) {
        for epoch in first_epoch.. {
            let mut any = from != RowAt::default(); // a pass from the middle may find nothing left
            for chunk in self.shards.chunks(self.split, from) {
                let tokens = chunk.map(|chunk| self.tokenize(epoch, chunk));
                any |= tokens.as_ref().is_ok_and(|tokens| tokens.documents.iter().any(|d| !d.is_empty()));
                let last = tokens.is_err();
                if self.send.send(tokens).is_err() || last {
                    return;
                }
            }
            if !any {
                let _ = self.send.send(Err(self.shards.empty(self.split)));
                return;
            }
            from = RowAt::default();
        }
    }

    fn tokenize(&self, epoch: u64, chunk: Chunk) -> Tokens {
        let document = |text: &Option<String>| {
            let Some(text) = text else { return Vec::new() };
            let mut ids = vec![self.bos];
            self.tokenizer.encode_into(text, &mut ids);
            ids
        };
        let documents = chunk.texts.par_iter().map(document).collect();
        Tokens { epoch, at: chunk.at, documents }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::{OnBadShard, ShardWriter};
    use crate::ranks::mine_of;
    use crate::testing::{on_ranks, tokenizer};

    fn corpus(documents: usize) -> (tempfile::TempDir, Shards) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data");
        let mut writer = ShardWriter::create(&dir, 60_000).unwrap();
        for i in 0..documents {
            let split = if i % 10 == 0 { Split::Val } else { Split::Train };
            writer.push(split, &"字母 word ".repeat(i % 7)).unwrap();
        }
        writer.finish().unwrap();
        let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
        (temp, shards)
    }

    fn loader(shards: &Shards, shape: [usize; 2], from: Option<&LoaderState>) -> DataLoader {
        DataLoader::new(shards, Split::Train, &tokenizer(), shape, from).unwrap()
    }

    /// All tokens of one epoch, made the plain way.
    fn epoch_tokens(shards: &Shards) -> Vec<u32> {
        let tokenizer = tokenizer();
        let mut tokens = Vec::new();
        for chunk in shards.chunks(Split::Train, RowAt::default()) {
            for text in chunk.unwrap().texts {
                tokens.push(tokenizer.special("<|bos|>").unwrap());
                tokens.extend(tokenizer.encode(&text.unwrap()));
            }
        }
        tokens
    }

    #[test]
    fn batches_are_the_stream_cut_in_pieces_and_wrap_around() {
        let (_temp, shards) = corpus(5_000);
        let stream = epoch_tokens(&shards);
        let mut loader = loader(&shards, [3, 700], None);
        let mut expected = stream.iter().cycle().copied();
        let mut taken = 0;
        while taken < stream.len() * 5 / 2 {
            let batch = loader.next_batch().unwrap();
            let piece: Vec<u32> = expected.by_ref().take(2_101).collect();
            assert_eq!(batch.inputs, piece[..2_100]);
            assert_eq!(batch.targets, piece[1..]);
            assert_eq!((batch.shape, batch.weights.len()), ([3, 700], 2_100));
            taken += 2_101;
        }
        assert_eq!(loader.state().sources[0].epoch, 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_resumed_loader_goes_on_exactly(
            stops in prop::collection::vec(0usize..40, 1..5),
            t in 1usize..900,
        ) {
            let (_temp, shards) = corpus(4_500);
            let mut straight = loader(&shards, [2, t], None);
            let mut resumed = loader(&shards, [2, t], None);
            for stop in stops {
                for _ in 0..stop {
                    prop_assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
                }
                let saved = serde_json::to_string(&resumed.state()).unwrap();
                resumed = loader(&shards, [2, t], Some(&serde_json::from_str(&saved).unwrap()));
                prop_assert_eq!(straight.state(), resumed.state());
            }
            prop_assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
        }
    }

    #[test]
    fn ranks_train_on_every_batch_once_whoever_resumes() {
        let (_temp, shards) = corpus(4_500);
        let mut alone = loader(&shards, [2, 300], None);
        let mut state = alone.state();
        // Five micro-batches a step: no number of ranks divides them, and of eight ranks three have none.
        for world in [1, 2, 3, 4, 8, 4, 1, 3] {
            let of_ranks = on_ranks(world, |comm| {
                let mut loader = loader(&shards, [2, 300], Some(&state));
                let step = |_| mine_of(&comm, (0..5).map(|_| loader.next_batch())).collect();
                let steps = (0..4).map(step).collect::<Result<Vec<Vec<Batch>>, DataError>>().unwrap();
                (steps, loader.state())
            });
            for step in 0..4 {
                for i in 0..5 {
                    let batch = &of_ranks[i % world].0[step][i / world];
                    assert_eq!(*batch, alone.next_batch().unwrap(), "micro-batch {i} of {world} ranks");
                }
            }
            assert!(of_ranks.iter().all(|(_, after)| *after == alone.state()));
            state = alone.state();
        }
    }

    #[test]
    fn what_cannot_work_is_said_at_once() {
        let (_temp, shards) = corpus(3_000);
        let new =
            |from: Option<&LoaderState>| DataLoader::new(&shards, Split::Train, &tokenizer(), [1, 8], from);
        let mut state = new(None).unwrap().state();
        state.sources[0].shard = "shard_00099.parquet".into();
        let error = new(Some(&state)).err().unwrap().to_string();
        assert!(error.contains("shard_00099.parquet"), "{error}");
        let twice = LoaderState { sources: [&state.sources[..], &state.sources[..]].concat() };
        let error = new(Some(&twice)).err().unwrap().to_string();
        assert!(error.contains("2 corpora"), "{error}");

        let first = SourceState { shard: "shard_00000.parquet".into(), ..state.sources[0].clone() };
        for changed in [
            SourceState { token: 1_000, ..first.clone() },
            SourceState { document: 5_000, token: 1, ..first },
        ] {
            let changed = LoaderState { sources: vec![changed] };
            let error = new(Some(&changed)).unwrap().next_batch().unwrap_err();
            assert!(matches!(error, DataError::ChangedShard { .. }), "{error}");
        }
    }

    /// A corpus of one word, repeated in documents of different lengths.
    fn of_word(root: &std::path::Path, word: &str, documents: usize) -> Shards {
        let dir = root.join(word);
        let mut writer = ShardWriter::create(&dir, 20_000).unwrap();
        for i in 0..documents {
            let split = if i % 10 == 0 { Split::Val } else { Split::Train };
            writer.push(split, &word.repeat(1 + i * i % 60)).unwrap();
        }
        writer.finish().unwrap();
        Shards::open(&dir, OnBadShard::Refuse).unwrap()
    }

    #[test]
    fn a_mixture_keeps_its_weights_and_resumes_exactly() {
        let temp = tempfile::tempdir().unwrap();
        let corpora = [(of_word(temp.path(), "a", 2_000), 0.7), (of_word(temp.path(), "b", 300), 0.3)];
        let mixed = |from: Option<&LoaderState>| {
            DataLoader::mixed(&corpora, Split::Train, &tokenizer(), [2, 333], from).unwrap()
        };
        let (mut straight, mut resumed) = (mixed(None), mixed(None));
        let (mut a, mut b) = (0, 0);
        for _ in 0..150 {
            let saved = serde_json::to_string(&resumed.state()).unwrap();
            resumed = mixed(Some(&serde_json::from_str(&saved).unwrap()));
            assert_eq!(straight.state(), resumed.state());
            let batch = straight.next_batch().unwrap();
            assert_eq!(batch, resumed.next_batch().unwrap());
            a += batch.inputs.iter().filter(|id| **id == u32::from(b'a')).count();
            b += batch.inputs.iter().filter(|id| **id == u32::from(b'b')).count();
        }
        let share = a as f64 / (a + b) as f64;
        assert!((share - 0.7).abs() < 0.01, "{share}");
        assert!(straight.state().sources[1].epoch >= 2, "the smaller corpus is gone through again");
    }

    #[test]
    fn a_corpus_of_nothing_but_damage_ends() {
        let (temp, _) = corpus(2_000);
        let shards = Shards::open(&temp.path().join("data"), OnBadShard::Skip).unwrap();
        for i in 0..10 {
            let path = temp.path().join(format!("data/shard_{i:05}.parquet"));
            if path.exists() {
                std::fs::write(path, b"PAR1").unwrap();
            }
        }
        let error = loader(&shards, [1, 8], None).next_batch().unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
    }
}
