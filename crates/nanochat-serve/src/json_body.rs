//! JSON request bodies, limited in size, nesting depth and arrival time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use nanochat::files::json;

use crate::error::ApiError;
use crate::fields::{Fields, FromFields};
use crate::offload::offload;

/// The largest body, in bytes: many times the context, since a long chat can still be truncated to fit.
pub const LARGEST: usize = 1 << 20;

/// The longest time that a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(15);

/// A parsed body and its size in bytes.
pub struct JsonBody<T>(pub T, pub usize);

impl<T: FromFields + Send + 'static, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<JsonBody<T>, ApiError> {
        if !says_json(request.headers()) {
            let message = "the body must be JSON, with the header Content-Type: application/json";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let body = read(request).await?;
        let size = body.len();
        let parse = move || {
            let mut fields = parse(&body)?;
            let parsed = T::from_fields(&mut fields)?;
            fields.finish()?;
            Ok(JsonBody(parsed, size))
        };
        offload(size, parse).await
    }
}

/// Whether the headers declare JSON. This also keeps foreign web pages out: a browser sends JSON to another origin only
/// after a preflight request, which is refused. It sends a body without a content type unasked, but then with an
/// `Origin`.
fn says_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return !headers.contains_key(header::ORIGIN);
    };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// Parses JSON. A lone surrogate (half an emoji, cut by the client) becomes U+FFFD.
fn parse(body: &[u8]) -> Result<Fields, ApiError> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
    match json::parse(body) {
        Ok((_, mended)) if mended.numbers > 0 => {
            Err(bad("the body has NaN or Infinity, which JSON does not know".into()))
        }
        Ok((body, _)) => Fields::of_body(body),
        Err(error) => Err(bad(format!("the body is {error}"))),
    }
}

async fn read(request: Request) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body may have {LARGEST} bytes at most");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > LARGEST as u64) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), LARGEST).collect();
    match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
    }
}
