//! Server-sent events (`data: {…}` and an empty line) as a response body that ends when the client leaves or stops
//! reading.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The number of events buffered for a slow reader; beyond that, its answer waits as tokens.
const AHEAD: usize = 32;

/// The time without reading after which a client counts as gone.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Events(mpsc::Sender<Bytes>);

/// The error that the client has left.
pub struct Gone;

impl Events {
    /// Sends `data`, which must be a single line.
    pub async fn send(&self, data: impl std::fmt::Display) -> Result<(), Gone> {
        let event = Bytes::from(format!("data: {data}\n\n"));
        match timeout(PATIENCE, self.0.send(event)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Resolves when the client has left.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

/// Returns a response whose events are sent by `write`.
pub fn respond<F>(write: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(AHEAD);
    let writing = write(Events(send));
    // An error means that the client has left, so there is nobody to report it to.
    tokio::spawn(async move { drop(writing.await) });
    let mut response = Response::new(Body::new(EventBody(receive)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // keeps nginx from buffering events
    response
}

struct EventBody(mpsc::Receiver<Bytes>);

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
