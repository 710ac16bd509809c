//! An endless stream of pretraining batches with an exact position (nanochat's tokenizing distributed loader).
//!
//! Documents become tokens with `<|bos|>` in front and are joined to one stream. A batch takes B·T + 1 tokens: inputs
//! are the first B·T as B rows, targets the same moved by one, so rows continue one another.
//!
//! There is one stream, whatever the number of ranks, and each trains on every world-th batch of it. So a step sees the
//! same tokens on any number of GPUs, and a run goes on with another number. nanochat's ranks have streams of their own
//! instead, whose order depends on how many they are. Here a rank reads and tokenizes every world-th row group and
//! gives the ids to the others ([`source`]), for only tokenizing tells where the next batch begins.

mod reader;
mod source;
#[cfg(test)]
mod tests;

use nanochat_tensor::Comm;
use nanochat_tokenizer::{NoSpecial, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::model::batch::Batch;
use crate::text::corpus_mix::furthest_behind;
use crate::text::dataset::{DatasetError, Shards, Split};
use source::Source;

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
/// share. Each is read and tokenized by a thread of its own, which ends when this is dropped.
pub struct DataLoader {
    sources: Vec<Source>,
    weights: Vec<f64>,
    shape: [usize; 2],
    /// The source that the next token comes from.
    current: usize,
}

/// Why a loader does not start.
#[derive(Debug, thiserror::Error)]
pub enum DataLoaderError {
    #[error(
        "the run was started with {saved} corpora, but now there are {found}; mix those it was started with"
    )]
    OtherSources { saved: usize, found: usize },
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    NoSpecial(#[from] NoSpecial),
}

impl DataLoader {
    /// Batches of (b, t), from the start or from a saved position. All ranks make the same loader and take the same
    /// batches of it.
    pub fn new(
        shards: &Shards,
        split: Split,
        tokenizer: &Tokenizer,
        shape: [usize; 2],
        from: Option<&LoaderState>,
        comm: &Comm,
    ) -> Result<DataLoader, DataLoaderError> {
        DataLoader::mixed(&[(shards.clone(), 1.0)], split, tokenizer, shape, from, comm)
    }

    /// As [`DataLoader::new`], from several corpora with their weights (above 0). Each is gone through again
    /// and again, at its own pace.
    pub fn mixed(
        corpora: &[(Shards, f64)],
        split: Split,
        tokenizer: &Tokenizer,
        [b, t]: [usize; 2],
        from: Option<&LoaderState>,
        comm: &Comm,
    ) -> Result<DataLoader, DataLoaderError> {
        assert!(b * t > 0, "a batch of ({b}, {t})");
        if let Some(state) = from
            && state.sources.len() != corpora.len()
        {
            return Err(DataLoaderError::OtherSources { saved: state.sources.len(), found: corpora.len() });
        }
        let open = |(i, (shards, _)): (usize, &(Shards, f64))| {
            Source::open(shards, split, tokenizer, from.map(|state| &state.sources[i]), comm)
        };
        let sources: Vec<Source> = corpora.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        let weights: Vec<f64> = corpora.iter().map(|(_, weight)| *weight).collect();
        let inside = sources.iter().position(Source::is_inside);
        let mut loader = DataLoader { sources, weights, shape: [b, t], current: 0 };
        loader.current = inside.unwrap_or_else(|| loader.next_source());
        Ok(loader)
    }

    /// The next batch of the stream. Ranks wait here for each other's tokens; where one cannot read its part, it
    /// returns the error and the others lose it.
    pub fn next_batch(&mut self) -> Result<Batch, DatasetError> {
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

    /// The position of the first token of the next batch.
    pub fn state(&self) -> LoaderState {
        LoaderState { sources: self.sources.iter().map(Source::state).collect() }
    }

    fn next_source(&self) -> usize {
        let taken: Vec<u64> = self.sources.iter().map(Source::taken).collect();
        furthest_behind(&self.weights, &taken)
    }
}
