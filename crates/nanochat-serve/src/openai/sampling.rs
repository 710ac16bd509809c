//! The fields that chats and completions share: how tokens are sampled, and when to stop.

use nanochat::engine::Request;
use nanochat::engine::sampler::SampleOptions;
use serde_json::Value;

use super::unsupported::{STREAM, refuse};
use crate::Server;
use crate::error::ApiError;
use crate::fields::{Fields, wrong};

#[derive(Debug, Default)]
pub struct SamplingFields {
    pub model: Option<String>,
    pub n: Option<usize>,
    pub stop: Vec<String>,
    stream: bool,
    includes_usage: bool,
    seed: Option<i128>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i128>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
}

impl SamplingFields {
    pub fn from_fields(fields: &mut Fields) -> Result<SamplingFields, ApiError> {
        Ok(SamplingFields {
            model: fields.text("model")?,
            n: fields.count("n")?,
            stop: stops(fields)?,
            stream: fields.flag("stream")?.unwrap_or(false),
            includes_usage: includes_usage(fields)?,
            seed: fields.whole("seed")?,
            temperature: fields.number("temperature")?,
            top_p: fields.number("top_p")?,
            top_k: fields.whole("top_k")?,
            min_p: fields.number("min_p")?,
            repetition_penalty: fields.number("repetition_penalty")?,
            presence_penalty: fields.number("presence_penalty")?,
            frequency_penalty: fields.number("frequency_penalty")?,
        })
    }

    /// Returns the number of samples per prompt.
    pub fn samples(&self) -> Result<usize, ApiError> {
        match self.n.unwrap_or(1) {
            n @ 1..=16 => Ok(n),
            n => Err(ApiError::bad("n", format!("n must be 1 to 16, found {n}"))),
        }
    }

    pub fn streams(&self) -> bool {
        self.stream
    }

    pub fn includes_usage(&self) -> bool {
        self.includes_usage
    }

    /// Returns the checked sampling options, with `defaults` for absent fields.
    pub fn options(&self, server: &Server, defaults: SampleOptions) -> Result<SampleOptions, ApiError> {
        let penalty = |param, value: Option<f32>| within(param, value.unwrap_or(0.0), -2.0, 2.0);
        // Other servers write -1 for "off"; a value above the vocabulary size turns it off, too.
        let most = server.tokenizer.vocab_size() as i128;
        let top_k = self.top_k.map_or(defaults.top_k, |top_k| top_k.clamp(0, most) as usize);
        let options = SampleOptions {
            temperature: within("temperature", self.temperature.unwrap_or(defaults.temperature), 0.0, 2.0)?,
            top_k,
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

    /// Returns one engine request per sample: they share the pages of their prompt, and each can stop on its own.
    pub fn requests(&self, prompt: &[u32], max_tokens: usize, options: SampleOptions) -> Vec<Request> {
        let request = |stream| Request { prompt: prompt.to_vec(), samples: 1, max_tokens, options, stream };
        (0..self.n.unwrap_or(1) as u64).map(request).collect()
    }
}

/// Reads the stop strings. An empty string stops nothing.
fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let name = fields.name("stop");
    let stops = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::Array(stops)) => stops,
        Some(stop) => vec![stop],
    };
    let text = |stop: &Value| {
        let wanted = || wrong(name.clone(), "a string or a list of strings", stop);
        stop.as_str().map(String::from).ok_or_else(wanted)
    };
    let mut stops = stops.iter().map(text).collect::<Result<Vec<String>, ApiError>>()?;
    stops.retain(|stop| !stop.is_empty());
    if stops.len() > 16 || stops.iter().any(|stop| stop.len() > 1_000) {
        return Err(ApiError::bad("stop", "stop may be 16 strings of 1,000 bytes at most"));
    }
    Ok(stops)
}

fn includes_usage(fields: &mut Fields) -> Result<bool, ApiError> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    let includes_usage = options.flag("include_usage")?.unwrap_or(false);
    options.flag("include_obfuscation")?; // padding that hides token lengths; not part of the answer
    refuse(&mut options, &STREAM)?;
    options.finish()?;
    Ok(includes_usage)
}

/// Takes the requested maximum length of an answer, at least `least` tokens; other servers write -1 for "what fits".
pub fn length(fields: &mut Fields, field: &str, least: usize) -> Result<Option<usize>, ApiError> {
    match fields.whole(field)? {
        Some(-1) => Ok(Some(usize::MAX)),
        Some(found) if found < least as i128 => {
            let message = format!("{field} must be at least {least}, or -1 for what fits, found {found}");
            Err(ApiError::bad(field.to_string(), message))
        }
        asked => Ok(asked.map(|asked| asked as usize)),
    }
}

pub fn within(param: &'static str, value: f32, least: f32, most: f32) -> Result<f32, ApiError> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(ApiError::bad(param, format!("{param} must be {least} to {most}, found {value}"))),
    }
}

/// Returns the maximum length of an answer: `asked` or else `default`, limited by the rest of the context.
pub fn room(server: &Server, prompt: usize, asked: Option<usize>, default: usize) -> Result<usize, ApiError> {
    let context = server.context;
    if prompt >= context {
        let message =
            format!("the prompt has {prompt} tokens, and the model sees {context}, its answer included");
        return Err(ApiError::bad("messages", message).code("context_length_exceeded"));
    }
    match asked.unwrap_or(default) {
        0 => Err(ApiError::bad("max_tokens", "max_tokens must be at least 1, found 0")),
        asked => Ok(asked.min(context - prompt)),
    }
}
