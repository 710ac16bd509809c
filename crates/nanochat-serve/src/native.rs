//! nanochat's own routes: `/chat/completions` in the web page's form, `/stats` and `/health`.

use std::ops::RangeInclusive;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use nanochat::conversation::{Message, PartKind, Role};
use nanochat::engine::Request;
use nanochat::engine::sampler::SampleOptions;
use serde_json::{Value, json};

use crate::access::ClientRights;
use crate::error::ApiError;
use crate::events;
use crate::fields::{Fields, FromFields};
use crate::generation::Generation;
use crate::json_body::JsonBody;
use crate::offload::offload;
use crate::openai::chat;
use crate::openai::messages::messages;
use crate::openai::sampling::within;
use crate::openai::turns::{alternating, prompt};
use crate::openai::unsupported::refuse;
use crate::{Server, Shared};

/// The body of `/chat/completions`: the web page's form or, if it names a model, OpenAI's. OpenAI clients reach this
/// route when their base URL lacks `/v1`.
pub enum AnyChatRequest {
    Native(NativeRequest),
    OpenAi(Box<chat::ChatRequest>),
}

pub struct NativeRequest {
    messages: Vec<Message>,
    temperature: f32,
    max_tokens: usize,
    top_k: usize,
}

impl FromFields for AnyChatRequest {
    fn from_fields(fields: &mut Fields) -> Result<AnyChatRequest, ApiError> {
        match fields.has("model") {
            true => FromFields::from_fields(fields).map(|request| AnyChatRequest::OpenAi(Box::new(request))),
            false => FromFields::from_fields(fields).map(AnyChatRequest::Native),
        }
    }
}

impl FromFields for NativeRequest {
    fn from_fields(fields: &mut Fields) -> Result<NativeRequest, ApiError> {
        let request = NativeRequest {
            messages: messages(fields)?,
            temperature: within("temperature", fields.number("temperature")?.unwrap_or(0.8), 0.0, 2.0)?,
            max_tokens: whole(fields, "max_tokens", 1..=4096)?.unwrap_or(512),
            top_k: whole(fields, "top_k", 0..=200)?.unwrap_or(50),
        };
        check_limits(&request.messages)?;
        refuse(
            fields,
            &[("stream", |stream| *stream == json!(true), "without a model this answer is always streamed")],
        )?;
        Ok(request)
    }
}

fn whole(
    fields: &mut Fields,
    field: &'static str,
    range: RangeInclusive<i128>,
) -> Result<Option<usize>, ApiError> {
    match fields.whole(field)? {
        Some(found) if !range.contains(&found) => {
            let (least, most) = range.into_inner();
            Err(ApiError::bad(field, format!("{field} must be {least} to {most}, found {found}")))
        }
        found => Ok(found.map(|found| found as usize)),
    }
}

/// Checks the limits of the original nanochat server: the number of messages and their lengths.
fn check_limits(messages: &[Message]) -> Result<(), ApiError> {
    let bad = |message: String| Err(ApiError::bad("messages", message));
    if !(1..=500).contains(&messages.len()) {
        return bad(format!("1 to 500 messages may be sent, found {}", messages.len()));
    }
    let mut all = 0;
    for (i, message) in messages.iter().enumerate() {
        if message.role == Role::System {
            return bad(format!("messages[{i}].role must be user or assistant"));
        }
        let length = message.content.text().chars().count();
        if !(1..=8_000).contains(&length) {
            return bad(format!("messages[{i}]: 1 to 8000 characters may be sent, found {length}"));
        }
        all += length;
    }
    if all > 32_000 { bad(format!("32000 characters may be sent in all, found {all}")) } else { Ok(()) }
}

/// The route `/chat/completions`: streams `data: {"token": "…", "gpu": 0}` for every piece of text and `data: {"done":
/// true}` at the end.
pub async fn chat(
    State(server): State<Shared>,
    Extension(rights): Extension<ClientRights>,
    JsonBody(request, size): JsonBody<AnyChatRequest>,
) -> Result<Response, ApiError> {
    let request = match request {
        AnyChatRequest::Native(request) => request,
        AnyChatRequest::OpenAi(request) => return chat::answer(server, rights, *request, size).await,
    };
    let shared = server.clone();
    let request = offload(size, move || prepare(&shared, request)).await?;
    let mut generation = Generation::start(&server, rights.owner, vec![request], &[])?;
    Ok(events::respond(async move |events| {
        loop {
            let delta = tokio::select! {
                delta = generation.next(&server) => delta,
                () = events.gone() => return Err(events::Gone),
            };
            match delta {
                None => return events.send(json!({"done": true})).await,
                Some(Err(error)) => return events.send(error.body()).await,
                Some(Ok(delta)) => {
                    for part in delta.parts.iter().filter(|part| part.kind == PartKind::Text) {
                        events.send(json!({"token": part.text, "gpu": delta.replica})).await?;
                    }
                }
            }
        }
    }))
}

/// Returns the engine's request for a chat in the web page's form.
fn prepare(server: &Server, request: NativeRequest) -> Result<Request, ApiError> {
    let messages = alternating(request.messages)?;
    let options = SampleOptions {
        temperature: request.temperature,
        top_k: request.top_k,
        seed: server.fresh_seed(),
        ..SampleOptions::default()
    };
    let asked = request.max_tokens;
    let (prompt, _) = prompt(server, messages, Some(asked.min(server.context / 2)))?;
    if prompt.len() >= server.context {
        let message = format!("that is {} tokens, and the model sees {}", prompt.len(), server.context);
        return Err(ApiError::bad("messages", message).code("context_length_exceeded"));
    }
    let max_tokens = asked.min(server.context - prompt.len());
    Ok(Request { prompt, samples: 1, max_tokens, options, stream: 0 })
}

pub async fn health(State(server): State<Shared>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "ready": server.is_ready(),
        "num_gpus": server.replicas.len(),
        "available_workers": server.queue.replicas(),
    }))
}

/// The route `/ready`: 503 while a load balancer should send no requests here.
pub async fn ready(State(server): State<Shared>) -> Response {
    let status = if server.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": server.is_ready()}))).into_response()
}

/// The route `/stats`. A key that is one of several gets no exact counts: they would reveal the lengths of other keys'
/// questions and answers.
pub async fn stats(State(server): State<Shared>, Extension(rights): Extension<ClientRights>) -> Json<Value> {
    let workers = server.replicas.iter().enumerate().map(|(i, replica)| {
        if !rights.sees_counts {
            return json!({"gpu_id": i, "device": replica.device});
        }
        let stats = replica.stats().map(|stats| {
            json!({
                "running": stats.running,
                "waiting": stats.waiting,
                "kv_pages": {"in_use": stats.pages_in_use, "idle": stats.pages_idle, "all": stats.pages},
                "generated_tokens": stats.generated_tokens,
                "computed_tokens": stats.computed_tokens,
                "spared_tokens": stats.cache_hit_tokens,
                "preemptions": stats.preemptions,
            })
        });
        json!({"gpu_id": i, "device": replica.device, "stats": stats})
    });
    let running = server
        .replicas
        .iter()
        .filter_map(|replica| replica.stats())
        .filter(|stats| stats.running > 0)
        .count();
    Json(json!({
        "model": server.model,
        "context": server.context,
        "total_workers": server.replicas.len(),
        "available_workers": server.queue.replicas().saturating_sub(running),
        "busy_workers": running,
        "queue_length": server.queue.len(),
        "tokens_per_second": rights.sees_counts.then(|| server.metrics.tokens_per_second()),
        "workers": workers.collect::<Vec<_>>(),
    }))
}
