//! Server-sent events: `data: {…}` and an empty line, as a body that ends when the client leaves or reads nothing for
//! too long.

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

/// Events that wait in front of a slow reader; behind them its answer waits as tokens.
const AHEAD: usize = 32;

/// A reader who takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Events(mpsc::Sender<Bytes>);

/// The client is gone.
pub struct Gone;

impl Events {
    /// Sends `data`, which must be one line.
    pub async fn send(&self, data: impl std::fmt::Display) -> Result<(), Gone> {
        let event = Bytes::from(format!("data: {data}\n\n"));
        match timeout(PATIENCE, self.0.send(event)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Ends when the client has gone.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

/// An answer whose events `write` sends.
pub fn respond<F>(write: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(AHEAD);
    let writing = write(Events(send));
    // An error says that nobody listens any more, so there is nobody to tell.
    tokio::spawn(async move { drop(writing.await) });
    let mut response = Response::new(Body::new(EventBody(receive)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would hold events back
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
