//! The route `/v1/chat/completions`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use nanochat::conversation::{Message, Part, PartKind};
use nanochat::engine::sampler::SampleOptions;
use serde_json::{Value, json};

use super::messages::messages;
use super::sampling::{length, room};
use super::turns::{alternating, prompt};
use super::unsupported::{self, settle};
use super::{MOST_SAMPLES, SamplingFields, check_model, finish_reason, logprobs, usage};
use crate::access::ClientRights;
use crate::error::ApiError;
use crate::events;
use crate::fields::{Fields, FromFields};
use crate::generation::{Delta, Generation};
use crate::json_body::JsonBody;
use crate::offload::offload;
use crate::{Server, Shared};

/// The tokens that truncation reserves for the answer if the request sets no limit; the same as in the web chat.
const ANSWER: usize = 512;

pub struct ChatRequest {
    messages: Vec<Message>,
    max_tokens: Option<usize>,
    logprobs: bool,
    top_logprobs: usize,
    truncates: bool,
    sampling: SamplingFields,
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
            sampling: SamplingFields::from_fields(fields)?,
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

/// A checked request with its prompt.
struct Prepared {
    prompt: Vec<u32>,
    max_tokens: usize,
    options: SampleOptions,
    /// The number of messages dropped to fit the context.
    dropped: usize,
}

pub async fn completions(
    State(server): State<Shared>,
    Extension(rights): Extension<ClientRights>,
    JsonBody(request, size): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    answer(server, rights, request, size).await
}

/// Returns the answer, whole or streamed as requested.
pub async fn answer(
    server: Shared,
    rights: ClientRights,
    request: ChatRequest,
    size: usize,
) -> Result<Response, ApiError> {
    let shared = server.clone();
    let prepare = move || prepare(&shared, &request).map(|prepared| (request, prepared));
    let (request, prepared) = offload(size, prepare).await?;
    let requests = request.sampling.requests(&prepared.prompt, prepared.max_tokens, prepared.options);
    let generation = Generation::start(&server, rights.owner, requests, &request.sampling.stop)?;
    let head = ResponseHead { id: server.fresh_id("chatcmpl"), created: server.now() };
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
    // The web chat's defaults: at temperature 1 a small model drifts off topic.
    let defaults = SampleOptions { temperature: 0.8, top_k: 50, ..SampleOptions::default() };
    let options = SampleOptions { logprobs, ..request.sampling.options(server, defaults)? };
    let messages = alternating(request.messages.clone())?;
    let reserved = request.max_tokens.unwrap_or(ANSWER).min(server.context / 2);
    let (prompt, dropped) = prompt(server, messages, request.truncates.then_some(reserved))?;
    let max_tokens = room(server, prompt.len(), request.max_tokens, server.context)?;
    Ok(Prepared { prompt, max_tokens, options, dropped })
}

struct ResponseHead {
    id: String,
    created: u64,
}

impl ResponseHead {
    fn json(&self, server: &Server, object: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": server.model, "choices": choices})
    }
}

#[derive(Default)]
struct ChatChoice {
    text: String,
    parts: Vec<Part>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

async fn whole(
    server: &Server,
    mut generation: Generation,
    head: ResponseHead,
    prepared: Prepared,
) -> Result<Value, ApiError> {
    let mut choices: BTreeMap<usize, ChatChoice> = BTreeMap::new();
    while let Some(delta) = generation.next(server).await {
        let delta = delta?;
        let choice = choices.entry(delta.sample).or_default();
        choice
            .logprobs
            .extend(delta.logprobs.map(|(id, found)| logprobs::in_chat(&server.tokenizer, id, &found)));
        choice.finish = delta.finish.map(finish_reason);
        for part in delta.parts {
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
    head: ResponseHead,
    prepared: Prepared,
    sampling: SamplingFields,
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
            let delta = tokio::select! {
                delta = generation.next(&server) => delta,
                () = events.gone() => return Err(events::Gone),
            };
            match delta {
                None => break,
                Some(Err(error)) => return events.send(error.body()).await,
                Some(Ok(delta)) => {
                    for choice in deltas(&server, delta) {
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

/// Returns the output as choices of streamed chunks.
fn deltas(server: &Server, delta: Delta) -> Vec<Value> {
    let choice = |content: Value, finish: Option<&str>| json!({"index": delta.sample, "delta": content, "logprobs": null, "finish_reason": finish});
    let mut choices: Vec<Value> = Vec::new();
    for part in &delta.parts {
        choices.push(choice(
            match part.kind {
                PartKind::Text => json!({"content": part.text}),
                PartKind::Python | PartKind::PythonOutput => json!({"tool": part}),
            },
            None,
        ));
    }
    if let Some((id, found)) = &delta.logprobs {
        if choices.is_empty() {
            choices.push(choice(json!({"content": ""}), None)); // a token that completes no character
        }
        choices[0]["logprobs"] =
            json!({"content": [logprobs::in_chat(&server.tokenizer, *id, found)], "refusal": null});
    }
    if let Some(finish) = delta.finish {
        choices.push(choice(json!({}), Some(finish_reason(finish))));
    }
    choices
}
