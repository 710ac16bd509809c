//! The requests and events of the engine.

use crate::engine::sampler::{Logprobs, OptionError, SampleOptions};

/// A request to generate text.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// The number of independent answers to the prompt.
    pub samples: usize,
    pub max_tokens: usize,
    pub options: SampleOptions,
    /// The random stream; it separates requests with the same seed.
    pub stream: u64,
}

/// The id of a request. Later requests have larger ids.
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

/// An event of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Token {
        request: RequestId,
        sample: usize,
        id: u32,
        /// None if a tool forced the token or no log-probabilities were requested.
        logprobs: Option<Logprobs>,
        /// Whether a tool forced the token instead of the model sampling it.
        forced: bool,
    },
    /// The stop token: sampled like the others, but not part of the answer.
    Stop { request: RequestId, sample: usize, id: u32, logprobs: Option<Logprobs> },
    /// The sample's last event.
    Finished { request: RequestId, sample: usize, finish: Finish },
}

/// The reason why a row ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it (`<|assistant_end|>` or `<|bos|>`).
    #[default]
    Stop,
    /// It reached `max_tokens` or the end of the context.
    Length,
    /// The caller ended it.
    Cancelled,
}

/// One sample of a request, as `generate` collects it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Everything after the prompt, tool results included, without the stop token.
    pub ids: Vec<u32>,
    /// Whether each token was forced by a tool instead of sampled.
    pub forced: Vec<bool>,
    /// The log-probabilities of each token that was not forced, if they were requested.
    pub logprobs: Vec<Logprobs>,
    /// The stop token, sampled like the others: `<|assistant_end|>` or `<|bos|>`.
    pub stop: Option<u32>,
    pub finish: Finish,
}

/// A new token, as [`generate`](super::Engine::generate) reports it; `request` is the index of its request.
#[derive(Clone, Copy, Debug)]
pub struct NewToken {
    pub request: usize,
    pub sample: usize,
    pub id: u32,
}
