//! The OpenAI-compatible API: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.
//!
//! Extensions to OpenAI's fields: `top_k`, `min_p`, `repetition_penalty` and `truncation` ("auto" drops the oldest
//! exchanges of a chat that is too long); in answers `parts` and, streamed, `tool`: calculator calls. A field of a
//! request is supported or in the list of harmless ones ([`unsupported`]); any other is refused by its name. [`turns`]
//! describes how messages that do not alternate are joined.

pub mod chat;
pub mod completions;
mod logprobs;
pub mod messages;
pub mod sampling;
pub mod turns;
pub mod unsupported;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use nanochat::engine::Finish;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::{Server, Shared};

pub use sampling::SamplingFields;

/// The most samples of one request, over all its prompts.
pub const MOST_SAMPLES: usize = 128;

pub async fn models(State(server): State<Shared>) -> Json<Value> {
    Json(json!({"object": "list", "data": [model_json(&server)]}))
}

pub async fn model(
    State(server): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = id.map_or_else(|_| "not UTF-8".to_string(), |Path(id)| id);
    check_model(&server, Some(&id))?;
    Ok(Json(model_json(&server)))
}

fn model_json(server: &Shared) -> Value {
    json!({
        "id": server.model,
        "object": "model",
        "created": server.started,
        "owned_by": "nanochat",
        "max_model_len": server.context,
    })
}

/// Checks the model's name; a request without a name means the served model.
pub fn check_model(server: &Server, name: Option<&str>) -> Result<(), ApiError> {
    match name.filter(|name| !name.is_empty() && *name != server.model) {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(100).collect();
            let message = format!("the model {name:?} is not served here; {:?} is", server.model);
            Err(ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found"))
        }
    }
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::Cancelled => "stop",
    }
}

fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}
