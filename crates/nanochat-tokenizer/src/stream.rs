//! Decoding token by token for a screen. A Chinese character is three bytes and often two tokens; what
//! is not yet a whole character waits for the next token.

use crate::Tokenizer;

/// Turns a stream of tokens into a stream of whole characters.
#[derive(Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    pending: Vec<u8>,
}

impl StreamDecoder {
    pub fn new(tokenizer: &Tokenizer) -> StreamDecoder {
        StreamDecoder { tokenizer: tokenizer.clone(), pending: Vec::new() }
    }

    /// The text that `id` completes, empty while a character is still cut. Special tokens give their
    /// names, unknown ids nothing. Bytes that can no longer become a character give U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default());
        let complete = complete_len(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// The end of the stream: U+FFFD for a character that was never completed.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Bytes before a character whose end is missing.
fn complete_len(bytes: &[u8]) -> usize {
    // A character has at most four bytes, so only the last three can belong to a cut one.
    let tail = bytes.len().saturating_sub(3);
    for start in tail..bytes.len() {
        match std::str::from_utf8(&bytes[start..]) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return start,
            _ => {}
        }
    }
    bytes.len()
}
