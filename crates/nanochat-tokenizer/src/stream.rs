//! Decodes token by token for a screen. A Chinese character is three bytes and often two tokens; an incomplete
//! character waits for the next token.

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

    /// Returns the text that `id` completes, empty while a character is incomplete. Special tokens become their names,
    /// unknown ids nothing. Bytes that can no longer become a character give U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default());
        let complete = complete_len(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// Ends the stream: returns U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Returns the number of bytes before an incomplete last character.
fn complete_len(bytes: &[u8]) -> usize {
    // A character has at most four bytes, so only the last three can belong to an incomplete one.
    let tail = bytes.len().saturating_sub(3);
    for start in tail..bytes.len() {
        match std::str::from_utf8(&bytes[start..]) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return start,
            _ => {}
        }
    }
    bytes.len()
}
