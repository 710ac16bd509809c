//! What is asked of the engine and what it answers.

use crate::sampler::{Logprobs, OptionError, SampleOptions};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// Independent answers to the prompt; each draws its own first token.
    pub samples: usize,
    pub max_tokens: usize,
    pub options: SampleOptions,
    /// Tells the random streams of requests with one seed apart.
    pub stream: u64,
}

/// Names a request; later ones have larger names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A request that cannot be answered.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RequestError {
    #[error("the prompt is empty; it begins with <|bos|>")]
    EmptyPrompt,
    #[error("the prompt has {found} tokens, which leaves no room for an answer in a context of {context}")]
    PromptTooLong { found: usize, context: usize },
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    UnknownToken { token: u32, vocab_size: usize },
    #[error("{what} must be at least 1")]
    Nothing { what: &'static str },
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// What a step brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Token {
        request: RequestId,
        sample: usize,
        id: u32,
        /// None where a tool forced the token or log-probabilities were not asked for.
        logprobs: Option<Logprobs>,
        /// Whether a tool put it there instead of the model.
        forced: bool,
    },
    /// The token that stopped the sample: drawn like the others, but no part of the answer.
    Stop { request: RequestId, sample: usize, id: u32, logprobs: Option<Logprobs> },
    /// The sample's last event.
    Finished { request: RequestId, sample: usize, finish: Finish },
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The model said so (`<|assistant_end|>` or `<|bos|>`).
    #[default]
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The caller said so.
    Cancelled,
}

/// One sample of a request, as `generate` collects it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Everything after the prompt, tool results included, without the token that stopped it.
    pub ids: Vec<u32>,
    /// Whether each token was forced by a tool instead of sampled.
    pub forced: Vec<bool>,
    /// Of each token that was not forced, where they were asked for.
    pub logprobs: Vec<Logprobs>,
    /// The token that stopped it, drawn like the others: `<|assistant_end|>` or `<|bos|>`.
    pub stop: Option<u32>,
    pub finish: Finish,
}

/// A new token of a row, as it comes.
#[derive(Clone, Copy, Debug)]
pub struct NewToken {
    pub request: usize,
    pub sample: usize,
    pub id: u32,
}
