//! API errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nanochat::conversation::ConversationError;
use nanochat::engine::RequestError;
use serde_json::{Value, json};

use crate::queue::Refused;

#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    /// The field of the request that the error is about.
    param: Option<Cow<'static, str>>,
    code: Option<&'static str>,
    retry_after: Option<u64>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    pub fn bad(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    pub fn code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    pub fn busy(message: &str, seconds: u64) -> ApiError {
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded");
        ApiError { retry_after: Some(seconds), ..error }
    }

    /// The error for a connection when every slot is held by a connection at work.
    pub fn crowded() -> ApiError {
        let message = "the server has as many connections as it can have; try again in a moment";
        ApiError { retry_after: Some(1), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub fn bug() -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "a bug in nanochat; the server's log says where")
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The error for an answer that the server broke off, by shutting down or by a failure.
    pub fn lost(shutting_down: bool) -> ApiError {
        match shutting_down {
            true => Refused::Closed.into(),
            false => ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the model failed; the server's log says why",
            ),
        }
    }

    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        match refused {
            Refused::Full => ApiError::busy("the queue is full; try again in a moment", 1),
            Refused::Closed => {
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
                ApiError { retry_after: Some(5), ..error.code("shutting_down") }
            }
        }
    }
}

impl From<ConversationError> for ApiError {
    fn from(error: ConversationError) -> ApiError {
        ApiError::bad("messages", error.to_string())
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        let code = match error {
            RequestError::PromptTooLong { .. } => Some("context_length_exceeded"),
            _ => None,
        };
        ApiError { code, ..ApiError::new(StatusCode::BAD_REQUEST, error.to_string()) }
    }
}
