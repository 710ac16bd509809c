//! What the tests of several modules share.

use nanochat_tokenizer::{Tokenizer, TrainOptions, train};

/// 256 bytes and the nine special tokens, no merges.
pub fn tokenizer() -> Tokenizer {
    let options = TrainOptions { vocab_size: 265, ..TrainOptions::default() };
    train(["any text"].iter(), &options).expect("265 is the smallest vocabulary")
}
