//! Special tokens, which mark the structure of a conversation. Text never encodes to them; the code that renders
//! conversations inserts their ids.

use crate::TokenizerError;
use crate::alphabet::bytes_of;

/// nanochat's special tokens. In a tokenizer trained here they have the last nine ids, in this order, before those of
/// `TrainOptions::extra_special`.
pub const SPECIAL_TOKENS: [&str; 9] = [
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
];

/// A tokenizer lacks the special token of this name.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the tokenizer has no {0} token; train or import one that has the chat tokens")]
pub struct NoSpecial(pub &'static str);

/// The nine names and `extra` ones behind them; refuses names that are empty, too long, or given twice.
pub(crate) fn special_names(extra: &[String]) -> Result<Vec<String>, TokenizerError> {
    let mut names: Vec<String> = SPECIAL_TOKENS.map(String::from).to_vec();
    for name in extra {
        if name.trim() != name || name.is_empty() || name.len() > 256 || name.contains(char::is_control) {
            let why = "1 to 256 bytes, no space at its ends, no control characters";
            return Err(TokenizerError::SpecialName { name: name.clone(), why });
        }
        if bytes_of(name).is_some_and(|bytes| bytes.len() == 1) {
            let why = "this single character stands for a byte in tokenizer.json";
            return Err(TokenizerError::SpecialName { name: name.clone(), why });
        }
        if names.contains(name) {
            return Err(TokenizerError::SpecialName {
                name: name.clone(),
                why: "each name once; nanochat's nine are always there",
            });
        }
        names.push(name.clone());
    }
    Ok(names)
}
