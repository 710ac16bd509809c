//! The layer between hyper and a client's socket. It times out clients that do not read, and records which connections
//! wait for their client: those are the ones that can be closed when slots run out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::slots::Activity;

/// A socket whose writes fail once its client has blocked them for `patience` in total. Each KiB that the client reads
/// gives one second back, so that reading a byte now and then does not hold a connection for long. Time with nothing to
/// write does not count: an answer may be generated as slowly as it likes.
pub struct PacedSocket<S> {
    socket: S,
    activity: Arc<Activity>,
    patience: Duration,
    left: Duration,
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> PacedSocket<S> {
    pub fn new(socket: S, activity: Arc<Activity>, patience: Duration) -> PacedSocket<S> {
        PacedSocket { socket, activity, patience, left: patience, blocked: None }
    }

    /// Starts, checks or stops the clock after an attempt to write.
    fn pace(&mut self, cx: &mut Context, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let left = self.left;
            let (_, late) = self.blocked.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
            self.activity.set_blocked(true);
            ready!(late.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Some((since, _)) = self.blocked.take() {
            self.activity.set_blocked(false);
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if let Poll::Ready(Ok(bytes)) = written {
            self.left = self.patience.min(self.left + Duration::from_secs(bytes as u64) / 1_024);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, into: &mut ReadBuf) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.pace(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        parts: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        self.pace(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A request body: while its next bytes have not arrived, the server waits for the client.
pub struct RequestBody {
    body: Incoming,
    activity: Arc<Activity>,
}

impl RequestBody {
    pub fn new(body: Incoming, activity: Arc<Activity>) -> RequestBody {
        RequestBody { body, activity }
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.activity.set_blocked(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.activity.set_blocked(false);
    }
}

/// A response body: when it is complete, the server waits for the next request.
pub struct ResponseBody {
    body: Body,
    activity: Arc<Activity>,
}

impl ResponseBody {
    pub fn new(body: Body, activity: Arc<Activity>) -> ResponseBody {
        ResponseBody { body, activity }
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.activity.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_client_who_takes_nothing_is_given_up_and_a_slow_answer_is_not() {
        let patience = Duration::from_millis(200);
        let (mut client, server) = duplex(64);
        let mut server = PacedSocket::new(server, Arc::default(), patience);
        for _ in 0..3 {
            server.write_all(b"a token").await.unwrap();
            sleep(2 * patience).await; // while the next token is generated
        }
        client.read_exact(&mut [0; 21]).await.unwrap();
        let error = server.write_all(&[7; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = duplex(64);
        let mut server = PacedSocket::new(server, Arc::default(), patience);
        let drip = tokio::spawn(async move {
            while client.read_exact(&mut [0; 1]).await.is_ok() {
                sleep(patience / 4).await;
            }
        });
        let started = Instant::now();
        assert!(server.write_all(&[7; 10_000]).await.is_err());
        assert!(started.elapsed() < 5 * patience, "{:?}", started.elapsed());
        drip.abort();
    }
}
