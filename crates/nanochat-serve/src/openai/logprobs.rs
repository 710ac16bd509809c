//! Log-probabilities in the two forms of OpenAI's API.

use nanochat::engine::sampler::Logprobs;
use nanochat_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// Returns one token's log-probabilities in the form of chats: lossy text beside the exact bytes.
pub fn in_chat(tokenizer: &Tokenizer, id: u32, logprobs: &Logprobs) -> Value {
    let entry = |id: u32, logprob: f32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        json!({"token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes})
    };
    let mut value = entry(id, logprobs.chosen);
    value["top_logprobs"] = logprobs.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
    value
}

/// The log-probabilities of many tokens in the form of completions: parallel lists.
#[derive(Default)]
pub struct Lists {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl Lists {
    /// Appends a token. `logprobs` is None for the first token, which has no context; `offset` counts characters.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, logprobs: Option<&Logprobs>, offset: usize) {
        self.tokens.push(name(tokenizer, id));
        self.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.chosen)));
        self.top_logprobs.push(logprobs.map(|logprobs| {
            let top = logprobs.top.iter();
            top.map(|&(id, logprob)| (name(tokenizer, id), json!(finite(logprob)))).collect()
        }));
        self.text_offset.push(offset);
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub fn take(&mut self) -> Value {
        let Lists { tokens, token_logprobs, top_logprobs, text_offset } = std::mem::take(self);
        json!({
            "tokens": tokens,
            "token_logprobs": token_logprobs,
            "top_logprobs": top_logprobs,
            "text_offset": text_offset,
        })
    }
}

/// Returns a token's text, or its bytes if it is only a part of a character, so that names stay distinct.
fn name(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(_) => bytes.iter().fold("bytes:".to_string(), |name, byte| format!("{name}\\x{byte:02x}")),
    }
}

/// Replaces negative infinity, which JSON lacks, by what OpenAI writes for an impossible token.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
