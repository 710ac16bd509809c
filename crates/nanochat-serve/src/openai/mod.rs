//! The API that other programs speak: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.
//!
//! Beyond OpenAI's fields: `top_k`, `min_p`, `repetition_penalty`, `truncation` ("auto" drops the oldest exchanges of a
//! chat that is too long), and in answers `tool`, a call of the calculator. Fields that ask for what a nanochat model
//! cannot do are refused, fields without effect are ignored.

pub mod chat;
pub mod completions;
mod logprobs;
mod sampling;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use nanochat::engine::Finish;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Shared;
use crate::error::ApiError;

pub use sampling::Sampling;

/// Samples that one request may ask for, of all its prompts together.
pub const MOST_SAMPLES: usize = 128;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

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

/// Without a name the served model is meant.
fn check_model(server: &Shared, name: Option<&str>) -> Result<(), ApiError> {
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
