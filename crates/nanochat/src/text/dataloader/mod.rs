//! An endless stream of pretraining batches with an exact position (nanochat's tokenizing distributed loader).
//!
//! Each document is tokenized with `<|bos|>` in front, and all are joined into one stream. A batch takes B·T + 1
//! tokens: the inputs are the first B·T as B rows, the targets are the inputs shifted by one. Each row continues the
//! one before it.
//!
//! There is one stream for any number of ranks, and each rank trains on every world-th batch of it. A step therefore
//! sees the same tokens on any number of GPUs, and a run can resume with another number. In nanochat every rank has its
//! own stream, so the order depends on the number of ranks. Here a rank reads and tokenizes every world-th row group
//! and sends the ids to the others ([`source`]), since only tokenizing shows where the next batch begins.

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
use source::DocumentSource;

/// The position of a loader. Resuming from it continues the stream exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    pub sources: Vec<SourceState>,
}

/// The position of a source's next token: token `token` (`<|bos|>` is token 0) of the document in row `document` of row
/// group `row_group`. At most one source of a mixture is inside a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    pub epoch: u64,
    pub shard: String,
    pub row_group: usize,
    pub document: usize,
    pub token: usize,
    /// The number of tokens in the documents it has finished, by which the weights of a mixture are measured.
    pub taken: u64,
}

/// A loader of one corpus, or of several by weight: the next document comes from the one whose tokens are furthest
/// behind its share. Each corpus is read and tokenized in its own thread, which ends when the loader is dropped.
pub struct DataLoader {
    sources: Vec<DocumentSource>,
    weights: Vec<f64>,
    shape: [usize; 2],
    /// The index of the source of the next token.
    current: usize,
}

/// The reasons why a loader cannot start.
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
    /// Makes a loader of batches (b, t), from the start or from a saved position. All ranks make the same loader and
    /// take the same batches from it.
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

    /// Makes a loader like [`DataLoader::new`] for several corpora with their weights (above 0). Each corpus repeats at
    /// its own pace.
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
            DocumentSource::open(shards, split, tokenizer, from.map(|state| &state.sources[i]), comm)
        };
        let sources: Vec<DocumentSource> = corpora.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        let weights: Vec<f64> = corpora.iter().map(|(_, weight)| *weight).collect();
        let inside = sources.iter().position(DocumentSource::is_inside);
        let mut loader = DataLoader { sources, weights, shape: [b, t], current: 0 };
        loader.current = inside.unwrap_or_else(|| loader.next_source());
        Ok(loader)
    }

    /// Returns the next batch of the stream. Ranks wait here for each other's tokens; if one cannot read its part, it
    /// returns the error and the others lose the connection to it.
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

    /// Returns the position of the first token of the next batch.
    pub fn state(&self) -> LoaderState {
        LoaderState { sources: self.sources.iter().map(DocumentSource::state).collect() }
    }

    fn next_source(&self) -> usize {
        let taken: Vec<u64> = self.sources.iter().map(DocumentSource::taken).collect();
        furthest_behind(&self.weights, &taken)
    }
}
