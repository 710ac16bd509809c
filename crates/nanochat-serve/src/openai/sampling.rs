//! The fields that chats and completions share: how tokens are chosen, and when to stop.

use nanochat::engine::Request;
use nanochat::sampler::SampleOptions;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::Server;
use crate::error::ApiError;

#[derive(Debug, Default, Deserialize)]
pub struct Sampling {
    pub model: Option<String>,
    pub n: Option<usize>,
    #[serde(default)]
    pub stream: Option<bool>,
    pub stream_options: Option<super::StreamOptions>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub stop: Vec<String>,
    seed: Option<i64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<serde_json::Map<String, Value>>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "stop must be a string or a list of strings")]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    })
}

impl Sampling {
    /// The samples for each prompt.
    pub fn samples(&self) -> Result<usize, ApiError> {
        match self.n.unwrap_or(1) {
            n @ 1..=16 => Ok(n),
            n => Err(ApiError::bad("n", format!("n must be 1 to 16, found {n}"))),
        }
    }

    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub fn includes_usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage)
    }

    /// Checked options, `defaults` where nothing is said.
    pub fn options(&self, server: &Server, defaults: SampleOptions) -> Result<SampleOptions, ApiError> {
        let penalty = |param, value: Option<f32>| within(param, value.unwrap_or(0.0), -2.0, 2.0);
        let top_k = self.top_k.unwrap_or(defaults.top_k as i64).max(0); // -1 is how others write "off"
        if self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
            return Err(ApiError::bad("logit_bias", "logit_bias is not supported"));
        }
        if self.stop.len() > 16 || self.stop.iter().any(|stop| stop.is_empty() || stop.len() > 1_000) {
            return Err(ApiError::bad("stop", "stop may be 16 strings of 1 to 1,000 bytes at most"));
        }
        let options = SampleOptions {
            temperature: within("temperature", self.temperature.unwrap_or(defaults.temperature), 0.0, 2.0)?,
            top_k: within("top_k", top_k as f32, 0.0, 200.0)? as usize,
            top_p: within("top_p", self.top_p.unwrap_or(1.0), 0.0, 1.0)?.max(f32::MIN_POSITIVE),
            min_p: within("min_p", self.min_p.unwrap_or(0.0), 0.0, 1.0)?,
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            presence_penalty: penalty("presence_penalty", self.presence_penalty)?,
            frequency_penalty: penalty("frequency_penalty", self.frequency_penalty)?,
            seed: self.seed.map_or_else(|| server.fresh_seed(), |seed| seed as u64),
            logprobs: None,
        };
        options.checked().map_err(|error| ApiError::bad("repetition_penalty", error.to_string()))
    }

    /// One request a sample: they share their prompt's pages, and each can be stopped alone.
    pub fn requests(&self, prompt: &[u32], max_tokens: usize, options: SampleOptions) -> Vec<Request> {
        let request = |stream| Request { prompt: prompt.to_vec(), samples: 1, max_tokens, options, stream };
        (0..self.n.unwrap_or(1) as u64).map(request).collect()
    }
}

pub fn within(param: &'static str, value: f32, least: f32, most: f32) -> Result<f32, ApiError> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(ApiError::bad(param, format!("{param} must be {least} to {most}, found {value}"))),
    }
}

/// The room for an answer: `asked` or `default`, as far as the context reaches.
pub fn room(server: &Server, prompt: usize, asked: Option<usize>, default: usize) -> Result<usize, ApiError> {
    let context = server.context;
    if prompt >= context {
        let message =
            format!("the prompt has {prompt} tokens, and the model sees {context}, its answer included");
        return Err(ApiError::bad("messages", message).code("context_length_exceeded"));
    }
    match asked.unwrap_or(default) {
        asked @ 1..=4096 => Ok(asked.min(context - prompt)),
        asked => Err(ApiError::bad("max_tokens", format!("max_tokens must be 1 to 4096, found {asked}"))),
    }
}
