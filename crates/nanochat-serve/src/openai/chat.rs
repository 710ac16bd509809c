//! `/v1/chat/completions`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use nanochat::conversation::{Content, Conversation, Message, Part, PartKind, Role};
use nanochat::sampler::SampleOptions;
use serde::Deserialize;
use serde_json::{Value, json};

use super::sampling::room;
use super::{MOST_SAMPLES, Sampling, check_model, finish_reason, logprobs, usage};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::generation::{Generation, Said};
use crate::{Server, Shared};

/// Longest answer where the request says nothing, as in the web chat.
const ANSWER: usize = 512;

#[derive(Deserialize)]
pub struct ChatRequest {
    messages: Vec<ChatMessage>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    truncation: Option<Truncation>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
    response_format: Option<ResponseFormat>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Truncation {
    Auto,
    Disabled,
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
}

#[derive(Deserialize)]
pub struct ChatMessage {
    role: String,
    #[serde(default)]
    content: Option<Value>,
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
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let prepared = prepare(&server, &request)?;
    let requests = request.sampling.requests(&prepared.prompt, prepared.max_tokens, prepared.options);
    let generation = Generation::start(&server, requests, &request.sampling.stop)?;
    let head = Head { id: server.fresh_id("chatcmpl"), created: server.now() };
    match request.sampling.streams() {
        true => Ok(stream(server, generation, head, prepared, request.sampling)),
        false => whole(&server, generation, head, prepared).await.map(|answer| Json(answer).into_response()),
    }
}

fn prepare(server: &Shared, request: &ChatRequest) -> Result<Prepared, ApiError> {
    check_model(server, request.sampling.model.as_deref())?;
    refuse_unsupported(request)?;
    let samples = request.sampling.samples()?;
    debug_assert!(samples <= MOST_SAMPLES);
    let logprobs = match (request.logprobs.unwrap_or(false), request.top_logprobs.unwrap_or(0)) {
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
    let asked = request.max_completion_tokens.or(request.max_tokens);
    let messages = messages(&request.messages)?;
    let truncates = request.truncation == Some(Truncation::Auto);
    let answer = asked.unwrap_or(ANSWER).min(server.context / 2);
    let (prompt, dropped) = prompt(server, messages, if truncates { Some(answer) } else { None })?;
    let max_tokens = room(server, prompt.len(), asked, ANSWER)?;
    Ok(Prepared { prompt, max_tokens, options, dropped })
}

fn refuse_unsupported(request: &ChatRequest) -> Result<(), ApiError> {
    let any = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if any(&request.tools) || any(&request.functions) {
        return Err(ApiError::bad("tools", "nanochat calls its own calculator and no other tools"));
    }
    match &request.response_format {
        Some(format) if format.r#type != "text" => {
            Err(ApiError::bad("response_format", "only the response format \"text\" is supported"))
        }
        _ => Ok(()),
    }
}

/// Messages within the limits of nanochat's own server, as a conversation has them.
pub fn messages(messages: &[ChatMessage]) -> Result<Vec<Message>, ApiError> {
    let bad = |message: String| Err(ApiError::bad("messages", message));
    if !(1..=500).contains(&messages.len()) {
        return bad(format!("1 to 500 messages may be sent, found {}", messages.len()));
    }
    let mut all = 0;
    let mut checked = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let role = match message.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => return bad(format!("message {}: the role must be system, user or assistant", i + 1)),
        };
        let Some(content) = content(message.content.as_ref()) else {
            return bad(format!("message {}: the content must be text, or a list of text parts", i + 1));
        };
        let length = content.text().chars().count();
        if !(1..=8_000).contains(&length) {
            return bad(format!("message {}: 1 to 8000 characters may be sent, found {length}", i + 1));
        }
        all += length;
        checked.push(Message { role, content });
    }
    match checked.last() {
        _ if all > 32_000 => bad(format!("32000 characters may be sent in all, found {all}")),
        Some(Message { role: Role::Assistant, .. }) => bad("the last message must be the user's".into()),
        _ => Ok(checked),
    }
}

fn content(value: Option<&Value>) -> Option<Content> {
    match value? {
        Value::String(text) => Some(Content::Text(text.clone())),
        Value::Array(parts) => {
            let part = |part: &Value| Part::deserialize(part).ok();
            parts.iter().map(part).collect::<Option<_>>().map(Content::Parts)
        }
        _ => None,
    }
}

/// The prompt, and how many messages were dropped so that `answer` tokens still fit (None: none may be).
pub fn prompt(
    server: &Server,
    mut messages: Vec<Message>,
    answer: Option<usize>,
) -> Result<(Vec<u32>, usize), ApiError> {
    let system = usize::from(messages[0].role == Role::System);
    let mut dropped = 0;
    loop {
        let conversation = Conversation { messages };
        let prompt = conversation.render_for_completion(&server.tokenizer)?;
        messages = conversation.messages;
        let fits = answer.is_none_or(|answer| prompt.len() + answer <= server.context);
        if fits || messages.len() < system + 3 {
            return Ok((prompt, dropped));
        }
        messages.drain(system..system + 2);
        dropped += 2;
    }
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
