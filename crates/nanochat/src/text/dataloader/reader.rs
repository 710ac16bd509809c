//! The thread that reads and tokenizes a rank's part of a corpus, ahead of training.

use std::sync::mpsc::SyncSender;

use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;

use crate::text::dataset::{DatasetError, RowAt, Shards, Share, Split, TextChunk};

/// The number of chunks tokenized ahead of training: a row group of 8 × 128 documents, so that all ranks work at once.
/// These are a few MB, which also cover short delays of a slow disk.
pub(super) const CHUNKS_AHEAD: usize = 8;

/// A tokenized [`TextChunk`]; rows without text are empty.
pub(super) struct Tokens {
    pub place: LoaderPlace,
    pub documents: Vec<Vec<u32>>,
}

/// The position of a row in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LoaderPlace {
    pub epoch: u64,
    pub at: RowAt,
}

pub(super) struct ShardReader {
    pub shards: Shards,
    pub split: Split,
    pub share: Share,
    pub tokenizer: Tokenizer,
    pub bos: u32,
    pub send: SyncSender<Result<Tokens, DatasetError>>,
}

impl ShardReader {
    /// Sends chunks until the source is gone, an error has been sent, or a pass has found nothing to read.
    pub fn run(&self, from: LoaderPlace) {
        let mut from_row = from.at;
        for epoch in from.epoch.. {
            let mut any = from_row != RowAt::default(); // a pass that starts in the middle may find nothing left
            for chunk in self.shards.chunks_of(self.split, from_row, self.share) {
                let tokens = chunk.map(|chunk| self.tokenize(epoch, chunk));
                let last = tokens.is_err();
                if self.send.send(tokens).is_err() || last {
                    return;
                }
                any = true;
            }
            if !any {
                return;
            }
            from_row = RowAt::default();
        }
    }

    fn tokenize(&self, epoch: u64, chunk: TextChunk) -> Tokens {
        let document = |text: &Option<String>| {
            let Some(text) = text else { return Vec::new() };
            let mut ids = vec![self.bos];
            self.tokenizer.encode_into(text, &mut ids);
            ids
        };
        let documents = chunk.texts.par_iter().map(document).collect();
        Tokens { place: LoaderPlace { epoch, at: chunk.at }, documents }
    }
}
