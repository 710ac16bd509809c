//! Work that may take long, beside the threads that answer everybody: reading a large body, tokenizing a long prompt.

use tokio::sync::oneshot;

use crate::error::ApiError;

/// Bodies up to this are worked on where they arrive: they take a millisecond or two, and wait behind no larger ones.
const SMALL: usize = 16 << 10;

/// Does `work` on a body of `size` bytes. There are as many threads for it as cores; what is not begun when its client
/// leaves is left undone.
pub async fn aside<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if size <= SMALL {
        return work();
    }
    let (reply, done) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        if !reply.is_closed() {
            let _ = reply.send(work()); // or the client has left
        }
    });
    done.await.unwrap_or_else(|_| Err(ApiError::bug()))
}
