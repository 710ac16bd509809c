//! nanochat's own routes: `/chat/completions` as its web page speaks it, `/stats`, `/health`, and `/tokenize`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nanochat::conversation::{PartKind, Role};
use nanochat::engine::Request;
use nanochat::sampler::SampleOptions;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Shared;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::generation::Generation;
use crate::openai::chat::{ChatMessage, messages, prompt};

#[derive(Deserialize)]
pub struct ChatRequest {
    messages: Vec<ChatMessage>,
    temperature: Option<f32>,
    max_tokens: Option<usize>,
    top_k: Option<usize>,
}

/// `data: {"token": "…", "gpu": 0}` for every piece of text, `data: {"done": true}` at the end.
pub async fn chat(
    State(server): State<Shared>,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let messages = messages(&request.messages)?;
    if messages.iter().any(|message| message.role == Role::System) {
        return Err(ApiError::bad("messages", "the role must be user or assistant"));
    }
    let limited = |param, value: f32, most: f32| match (0.0..=most).contains(&value) {
        true => Ok(value),
        false => Err(ApiError::bad(param, format!("{param} must be 0 to {most}, found {value}"))),
    };
    let options = SampleOptions {
        temperature: limited("temperature", request.temperature.unwrap_or(0.8), 2.0)?,
        top_k: limited("top_k", request.top_k.unwrap_or(50) as f32, 200.0)? as usize,
        seed: server.fresh_seed(),
        ..SampleOptions::default()
    };
    let asked = request.max_tokens.unwrap_or(512);
    if !(1..=4096).contains(&asked) {
        return Err(ApiError::bad("max_tokens", format!("max_tokens must be 1 to 4096, found {asked}")));
    }
    let (prompt, _) = prompt(&server, messages, Some(asked.min(server.context / 2)))?;
    if prompt.len() >= server.context {
        let message = format!("that is {} tokens, and the model sees {}", prompt.len(), server.context);
        return Err(ApiError::bad("messages", message).code("context_length_exceeded"));
    }
    let max_tokens = asked.min(server.context - prompt.len());
    let request = Request { prompt, samples: 1, max_tokens, options, stream: 0 };
    let mut generation = Generation::start(&server, vec![request], &[])?;
    Ok(events::respond(async move |events| {
        loop {
            let said = tokio::select! {
                said = generation.next(&server) => said,
                () = events.gone() => return Err(events::Gone),
            };
            match said {
                None => return events.send(json!({"done": true})).await,
                Some(Err(error)) => return events.send(error.body()).await,
                Some(Ok(said)) => {
                    for part in said.parts.iter().filter(|part| part.kind == PartKind::Text) {
                        events.send(json!({"token": part.text, "gpu": said.replica})).await?;
                    }
                }
            }
        }
    }))
}

#[derive(Deserialize)]
pub struct TokenizeRequest {
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
}

/// The tokens of a text, or of a chat with its marks, and how many there may be.
pub async fn tokenize(
    State(server): State<Shared>,
    JsonBody(request): JsonBody<TokenizeRequest>,
) -> Result<Json<Value>, ApiError> {
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) => server.tokenizer.encode(&text),
        (None, Some(chat)) => prompt(&server, messages(&chat)?, None)?.0,
        _ => return Err(ApiError::bad("prompt", "either prompt or messages is wanted")),
    };
    Ok(Json(json!({"count": tokens.len(), "max_model_len": server.context, "tokens": tokens})))
}

pub async fn health(State(server): State<Shared>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "ready": server.is_ready(),
        "num_gpus": server.replicas.len(),
        "available_workers": server.queue.replicas(),
    }))
}

/// 503 while a load balancer should send nobody here.
pub async fn ready(State(server): State<Shared>) -> Response {
    let status = if server.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": server.is_ready()}))).into_response()
}

pub async fn stats(State(server): State<Shared>) -> Json<Value> {
    let workers = server.replicas.iter().enumerate().map(|(i, replica)| {
        let stats = replica.stats().map(|stats| {
            json!({
                "running": stats.running,
                "waiting": stats.waiting,
                "kv_pages": {"in_use": stats.pages_in_use, "idle": stats.pages_idle, "all": stats.pages},
                "generated_tokens": stats.generated_tokens,
                "computed_tokens": stats.computed_tokens,
                "spared_tokens": stats.spared_tokens,
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
        "tokens_per_second": server.metrics.tokens_per_second(),
        "workers": workers.collect::<Vec<_>>(),
    }))
}
