//! Moves slow work (parsing a large body, tokenizing a long prompt) off the async threads that answer all clients.

use tokio::sync::oneshot;

use crate::error::ApiError;

/// The largest body, in bytes, that is processed on the async thread: it takes a millisecond or two, and does not queue
/// behind larger ones.
const SMALL: usize = 16 << 10;

/// Runs `work` on a body of `size` bytes, on a pool of as many threads as there are cores if the body is large. Work
/// whose client has left before it starts is skipped.
pub async fn offload<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if size <= SMALL {
        return work();
    }
    let (reply, done) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        if !reply.is_closed() {
            let _ = reply.send(work()); // fails if the client has left
        }
    });
    done.await.unwrap_or_else(|_| Err(ApiError::bug()))
}
