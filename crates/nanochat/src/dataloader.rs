//! An endless stream of pretraining batches with an exact position (nanochat's tokenizing distributed loader).
//!
//! Documents become tokens with `<|bos|>` in front and are joined to one stream per rank. A batch takes
//! B·T + 1 tokens: inputs are the first B·T as B rows, targets the same moved by one, so rows continue one another.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::conversation::ConversationError;
use crate::dataset::{Chunk, DataError, RowAt, Shards, Split};

/// Chunks tokenised ahead of training: 4 × 128 documents, a few MB, hide a slow disk's hiccups.
const CHUNKS_AHEAD: usize = 4;
/// Batches packed ahead: all of a usual step, 8 of 65,536 tokens, so that a GPU does not wait for them.
const BATCHES_AHEAD: usize = 8;

/// The next token a loader gives: token `token` of the document (its `<|bos|>` is token 0) in row
/// `document` of row group `row_group`. Resuming from it continues the stream exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    pub epoch: u64,
    pub shard: String,
    pub row_group: usize,
    pub document: usize,
    pub token: usize,
}

/// Reads, tokenises and packs in two threads of its own, which end when this is dropped.
pub struct DataLoader {
    ahead: Receiver<Result<(Batch, LoaderState), DataError>>,
    state: LoaderState,
}

/// The thread that cuts tokens into batches.
struct Packer {
    shards: Shards,
    split: Split,
    shape: [usize; 2],
    ahead: Receiver<Result<Tokens, DataError>>,
    current: Tokens,
    /// The next token: which document of `current`, which token of it.
    document: usize,
    token: usize,
}

/// A tokenised [`Chunk`]; rows without text are empty.
struct Tokens {
    epoch: u64,
    at: RowAt,
    documents: Vec<Vec<u32>>,
}

impl DataLoader {
    /// Batches of (b, t) for rank `rank` of `world`, from the start or from a saved position.
    pub fn new(
        shards: &Shards,
        split: Split,
        tokenizer: &Tokenizer,
        [b, t]: [usize; 2],
        [rank, world]: [usize; 2],
        from: Option<&LoaderState>,
    ) -> Result<DataLoader, DataError> {
        assert!(b * t > 0 && rank < world, "a batch of ({b}, {t}) for rank {rank} of {world}");
        shards.check_rank(split, rank, world)?;
        let bos = tokenizer.special("<|bos|>").ok_or(ConversationError::NoSpecial("<|bos|>"))?;
        let (epoch, at, token) = match from {
            None => (0, RowAt { row_group: rank, ..RowAt::default() }, 0),
            Some(state) => {
                let shard = shards.shard_index(split, &state.shard)?;
                let at = RowAt { shard, row_group: state.row_group, row: state.document };
                (state.epoch, at, state.token)
            }
        };
        let (send, ahead) = sync_channel(CHUNKS_AHEAD);
        let (shards, tokenizer) = (shards.clone(), tokenizer.clone());
        let reader = Reader { shards: shards.clone(), split, tokenizer, bos, rank, world, send };
        std::thread::spawn(move || reader.run(epoch, at));
        let current = Tokens { epoch, at, documents: Vec::new() };
        let packer = Packer { shards, split, shape: [b, t], ahead, current, document: 0, token };
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
            let Some(document) = self.current.documents.get(self.document) else {
                self.receive()?;
                continue;
            };
            let rest = document.get(self.token..).ok_or_else(|| self.changed())?;
            let n = rest.len().min(len + 1 - tokens.len());
            tokens.extend_from_slice(&rest[..n]);
            self.token += n;
            if self.token == document.len() {
                (self.document, self.token) = (self.document + 1, 0);
            }
        }
        let targets = tokens[1..].to_vec();
        tokens.truncate(len);
        Ok(Batch { inputs: tokens, targets, weights: vec![1.0; len], shape: self.shape })
    }

    fn state(&self) -> LoaderState {
        let at = self.current.at;
        LoaderState {
            epoch: self.current.epoch,
            shard: self.shards.shard_name(self.split, at.shard).into(),
            row_group: at.row_group,
            document: at.row + self.document,
            token: self.token,
        }
    }

    fn receive(&mut self) -> Result<(), DataError> {
        let next = self.ahead.recv().expect("the reader sends until it has sent an error")?;
        // Only a resumed loader waits for its first document with tokens of it already used.
        if self.token > 0 && next.at != self.current.at {
            return Err(self.changed());
        }
        self.current = next;
        self.document = 0;
        Ok(())
    }

    fn changed(&self) -> DataError {
        DataError::ChangedShard { shard: self.shards.shard_name(self.split, self.current.at.shard).into() }
    }
}

/// The thread that reads and tokenises.
struct Reader {
    shards: Shards,
    split: Split,
    tokenizer: Tokenizer,
    bos: u32,
    rank: usize,
    world: usize,
    send: SyncSender<Result<Tokens, DataError>>,
}

impl Reader {
    /// Sends chunks until the loader is gone or an error has been sent.
    fn run(&self, first_epoch: u64, mut from: RowAt) {
        let start = RowAt { row_group: self.rank, ..RowAt::default() };
        for epoch in first_epoch.. {
            let mut any = from != start; // a pass from the middle may find nothing left
            for chunk in self.shards.chunks(self.split, self.rank, self.world, from) {
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
            from = start;
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
    use crate::testing::tokenizer;

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

    fn loader(
        shards: &Shards,
        shape: [usize; 2],
        ranks: [usize; 2],
        from: Option<&LoaderState>,
    ) -> DataLoader {
        DataLoader::new(shards, Split::Train, &tokenizer(), shape, ranks, from).unwrap()
    }

    /// All tokens of one epoch of a rank, made the plain way.
    fn epoch_tokens(shards: &Shards, rank: usize, world: usize) -> Vec<u32> {
        let (tokenizer, from) = (tokenizer(), RowAt { row_group: rank, ..RowAt::default() });
        let mut tokens = Vec::new();
        for chunk in shards.chunks(Split::Train, rank, world, from) {
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
        for [rank, world] in [[0, 1], [0, 2], [1, 2]] {
            let stream = epoch_tokens(&shards, rank, world);
            let mut loader = loader(&shards, [3, 700], [rank, world], None);
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
            assert_eq!(loader.state().epoch, 2);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_resumed_loader_goes_on_exactly(
            stops in prop::collection::vec(0usize..40, 1..5),
            t in 1usize..900,
            rank in 0usize..2,
        ) {
            let (_temp, shards) = corpus(4_500);
            let mut straight = loader(&shards, [2, t], [rank, 2], None);
            let mut resumed = loader(&shards, [2, t], [rank, 2], None);
            for stop in stops {
                for _ in 0..stop {
                    prop_assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
                }
                let saved = serde_json::to_string(&resumed.state()).unwrap();
                resumed = loader(&shards, [2, t], [rank, 2], Some(&serde_json::from_str(&saved).unwrap()));
                prop_assert_eq!(straight.state(), resumed.state());
            }
            prop_assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
        }
    }

    #[test]
    fn what_cannot_work_is_said_at_once() {
        let (_temp, shards) = corpus(3_000);
        let new = |ranks, from: Option<&LoaderState>| {
            DataLoader::new(&shards, Split::Train, &tokenizer(), [1, 8], ranks, from)
        };
        let error = new([5, 6], None).err().unwrap().to_string();
        assert!(error.contains("rank 5 of 6"), "{error}");

        let mut state = new([0, 1], None).unwrap().state();
        state.shard = "shard_00099.parquet".into();
        let error = new([0, 1], Some(&state)).err().unwrap().to_string();
        assert!(error.contains("shard_00099.parquet"), "{error}");

        let first = LoaderState { shard: "shard_00000.parquet".into(), ..state };
        for changed in [
            LoaderState { token: 1_000, ..first.clone() },
            LoaderState { document: 5_000, token: 1, ..first },
        ] {
            let error = new([0, 1], Some(&changed)).unwrap().next_batch().unwrap_err();
            assert!(matches!(error, DataError::ChangedShard { .. }), "{error}");
        }
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
        let error = loader(&shards, [1, 8], [0, 1], None).next_batch().unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
    }
}
