//! The rate limit of each client, as a token bucket.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use crate::error::ApiError;
use crate::keys::Client;

/// The number of clients beyond which those without a request in the last minute are forgotten.
const REMEMBERED: usize = 10_000;

/// The rate limiter of a server.
pub struct RateLimiter {
    /// Requests per minute of each client; None: no limit.
    per_minute: Option<u32>,
    buckets: Mutex<HashMap<Client, TokenBucket>>,
}

/// A token bucket: the requests that a client has left.
struct TokenBucket {
    left: f64,
    at: Instant,
}

impl RateLimiter {
    pub fn new(per_minute: Option<u32>) -> RateLimiter {
        RateLimiter { per_minute, buckets: Mutex::default() }
    }

    pub fn limit(&self, client: Client) -> Result<(), ApiError> {
        let Some(per_minute) = self.per_minute.map(f64::from) else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        if buckets.len() >= REMEMBERED {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 60);
        }
        let bucket = buckets.entry(client).or_insert(TokenBucket { left: per_minute, at: now });
        let gained = now.duration_since(bucket.at).as_secs_f64() * per_minute / 60.0;
        *bucket = TokenBucket { left: (bucket.left + gained).min(per_minute), at: now };
        if bucket.left < 1.0 {
            let seconds = ((1.0 - bucket.left) * 60.0 / per_minute).ceil() as u64;
            return Err(ApiError::busy("too many requests; wait a little", seconds.max(1)));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_ask_so_often_and_no_more() {
        let rate = RateLimiter::new(Some(3));
        let (here, there) = (Client::Address([1, 1, 1, 1].into()), Client::Address([2, 2, 2, 2].into()));
        assert_eq!((0..5).filter(|_| rate.limit(here).is_ok()).count(), 3);
        assert!(rate.limit(there).is_ok());
    }
}
