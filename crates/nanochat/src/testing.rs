//! What the tests of several modules share.

use std::sync::Arc;

use nanochat_tokenizer::Tokenizer;

/// Bytes and special tokens, no merges.
pub fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::bytes())
}
