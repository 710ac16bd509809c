//! `/v1/chat/completions`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use nanochat::conversation::{Message, Part, PartKind};
use nanochat::sampler::SampleOptions;
use serde_json::{Value, json};

use super::messages::messages;
use super::sampling::{length, room};
use super::turns::{alternating, prompt};
use super::unsupported::{self, settle};
use super::{MOST_SAMPLES, Sampling, check_model, finish_reason, logprobs, usage};
use crate::access::Asker;
use crate::aside::aside;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::fields::{Fields, FromFields};
use crate::generation::{Generation, Said};
use crate::{Server, Shared};

/// Tokens that truncation leaves for an answer where the request does not say how long it may be, as in the web chat.
const ANSWER: usize = 512;

pub struct ChatRequest {
    messages: Vec<Message>,
    max_tokens: Option<usize>,
    logprobs: bool,
    top_logprobs: usize,
    truncates: bool,
    sampling: Sampling,
}

impl FromFields for ChatRequest {
    fn from_fields(fields: &mut Fields) -> Result<ChatRequest, ApiError> {
        let (newer, older) = (length(fields, "max_completion_tokens", 1)?, length(fields, "max_tokens", 1)?);
        let request = ChatRequest {
            messages: messages(fields)?,
            max_tokens: newer.or(older),
            logprobs: fields.flag("logprobs")?.unwrap_or(false),
            top_logprobs: fields.count("top_logprobs")?.unwrap_or(0),
            truncates: truncates(fields)?,
            sampling: Sampling::from_fields(fields)?,
        };
        settle(fields, &unsupported::CHAT)?;
        Ok(request)
    }
}

fn truncates(fields: &mut Fields) -> Result<bool, ApiError> {
    match fields.text("truncation")?.as_deref() {
        None | Some("disabled") => Ok(false),
        Some("auto") => Ok(true),
        Some(_) => Err(ApiError::bad("truncation", "truncation must be \"auto\" or \"disabled\"")),
    }
}

/// A request that was checked, with its prompt.
struct Prepared {
    prompt: Vec<u32>,
    max_tokens: usize,
    options: SampleOptions,
    /// Messages left out for want of room.
    dropped: usize,
}

pub async fn completions(
    State(server): State<Shared>,
    Extension(asker): Extension<Asker>,
    JsonBody(request, size): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    answer(server, asker, request, size).await
}

/// Whole or streamed, as the request wants it.
pub async fn answer(
    server: Shared,
    asker: Asker,
    request: ChatRequest,
    size: usize,
) -> Result<Response, ApiError> {
    let shared = server.clone();
    let prepare = move || prepare(&shared, &request).map(|prepared| (request, prepared));
    let (request, prepared) = aside(size, prepare).await?;
    let requests = request.sampling.requests(&prepared.prompt, prepared.max_tokens, prepared.options);
    let generation = Generation::start(&server, asker.owner, requests, &request.sampling.stop)?;
    let head = Head { id: server.fresh_id("chatcmpl"), created: server.now() };
    match request.sampling.streams() {
        true => Ok(stream(server, generation, head, prepared, request.sampling)),
        false => whole(&server, generation, head, prepared).await.map(|answer| Json(answer).into_response()),
    }
}

fn prepare(server: &Server, request: &ChatRequest) -> Result<Prepared, ApiError> {
    check_model(server, request.sampling.model.as_deref())?;
    let samples = request.sampling.samples()?;
    debug_assert!(samples <= MOST_SAMPLES);
    let logprobs = match (request.logprobs, request.top_logprobs) {
        (false, 0) => None,
        (true, top @ 0..=20) => Some(top),
        (true, top) => {
            return Err(ApiError::bad("top_logprobs", format!("top_logprobs must be 0 to 20, found {top}")));
        }
        (false, _) => return Err(ApiError::bad("top_logprobs", "top_logprobs needs \"logprobs\": true")),
    };
    // The web chat's defaults: a small model's own distribution wanders off.
    let defaults = SampleOptions { temperature: 0.8, top_k: 50, ..SampleOptions::default() };
    let options = SampleOptions { logprobs, ..request.sampling.options(server, defaults)? };
    let messages = alternating(request.messages.clone())?;
    let reserved = request.max_tokens.unwrap_or(ANSWER).min(server.context / 2);
    let (prompt, dropped) = prompt(server, messages, request.truncates.then_some(reserved))?;
    let max_tokens = room(server, prompt.len(), request.max_tokens, server.context)?;
    Ok(Prepared { prompt, max_tokens, options, dropped })
}

struct Head {
    id: String,
    created: u64,
}

impl Head {
    fn json(&self, server: &Server, object: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": server.model, "choices": choices})
    }
}

#[derive(Default)]
struct Choice {
    text: String,
    parts: Vec<Part>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

async fn whole(
    server: &Server,
    mut generation: Generation,
    head: Head,
    prepared: Prepared,
) -> Result<Value, ApiError> {
    let mut choices: BTreeMap<usize, Choice> = BTreeMap::new();
    while let Some(said) = generation.next(server).await {
        let said = said?;
        let choice = choices.entry(said.sample).or_default();
        choice
            .logprobs
            .extend(said.logprobs.map(|(id, found)| logprobs::in_chat(&server.tokenizer, id, &found)));
        choice.finish = said.finish.map(finish_reason);
        for part in said.parts {
            if part.kind == PartKind::Text {
                choice.text.push_str(&part.text);
            }
            match choice.parts.last_mut() {
                Some(last) if last.kind == part.kind => last.text.push_str(&part.text),
                _ => choice.parts.push(part),
            }
        }
    }
    let choices = choices.into_iter().map(|(index, choice)| {
        let mut message = json!({"role": "assistant", "content": choice.text, "refusal": null});
        if choice.parts.iter().any(|part| part.kind != PartKind::Text) {
            message["parts"] = json!(choice.parts);
        }
        let logprobs =
            prepared.options.logprobs.map(|_| json!({"content": choice.logprobs, "refusal": null}));
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish})
    });
    let mut answer = head.json(server, "chat.completion", choices.collect());
    answer["usage"] = usage(prepared.prompt.len(), generation.tokens);
    Ok(answer)
}

fn stream(
    server: Shared,
    mut generation: Generation,
    head: Head,
    prepared: Prepared,
    sampling: Sampling,
) -> Response {
    events::respond(async move |events| {
        let chunk = |choices: Value| {
            let mut chunk = head.json(&server, "chat.completion.chunk", choices);
            if sampling.includes_usage() {
                chunk["usage"] = Value::Null;
            }
            chunk
        };
        for index in 0..sampling.n.unwrap_or(1) {
            let mut delta = json!({"role": "assistant", "content": ""});
            if prepared.dropped > 0 {
                delta["dropped_messages"] = json!(prepared.dropped);
            }
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            events.send(chunk(json!([choice]))).await?;
        }
        loop {
            let said = tokio::select! {
                said = generation.next(&server) => said,
                () = events.gone() => return Err(events::Gone),
            };
            match said {
                None => break,
                Some(Err(error)) => return events.send(error.body()).await,
                Some(Ok(said)) => {
                    for choice in deltas(&server, said) {
                        events.send(chunk(json!([choice]))).await?;
                    }
                }
            }
        }
        if sampling.includes_usage() {
            let mut last = head.json(&server, "chat.completion.chunk", json!([]));
            last["usage"] = usage(prepared.prompt.len(), generation.tokens);
            events.send(last).await?;
        }
        events.send("[DONE]").await
    })
}

/// What was said, as choices of chunks.
fn deltas(server: &Server, said: Said) -> Vec<Value> {
    let choice = |delta: Value, finish: Option<&str>| json!({"index": said.sample, "delta": delta, "logprobs": null, "finish_reason": finish});
    let mut choices: Vec<Value> = Vec::new();
    for part in &said.parts {
        choices.push(choice(
            match part.kind {
                PartKind::Text => json!({"content": part.text}),
                PartKind::Python | PartKind::PythonOutput => json!({"tool": part}),
            },
            None,
        ));
    }
    if let Some((id, found)) = &said.logprobs {
        if choices.is_empty() {
            choices.push(choice(json!({"content": ""}), None)); // a token inside a character
        }
        choices[0]["logprobs"] =
            json!({"content": [logprobs::in_chat(&server.tokenizer, *id, found)], "refusal": null});
    }
    if let Some(finish) = said.finish {
        choices.push(choice(json!({}), Some(finish_reason(finish))));
    }
    choices
}
