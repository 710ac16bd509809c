//! How often each client may ask.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use crate::error::ApiError;
use crate::keys::Client;

/// Clients who are remembered; beyond that, those are forgotten who have not asked for a minute.
const REMEMBERED: usize = 10_000;

pub struct Rate {
    /// Requests of each client; None: any number.
    per_minute: Option<u32>,
    buckets: Mutex<HashMap<Client, Bucket>>,
}

/// A token bucket: what is left of a minute's requests.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rate {
    pub fn new(per_minute: Option<u32>) -> Rate {
        Rate { per_minute, buckets: Mutex::default() }
    }

    pub fn limit(&self, client: Client) -> Result<(), ApiError> {
        let Some(per_minute) = self.per_minute.map(f64::from) else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        if buckets.len() >= REMEMBERED {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 60);
        }
        let bucket = buckets.entry(client).or_insert(Bucket { left: per_minute, at: now });
        let gained = now.duration_since(bucket.at).as_secs_f64() * per_minute / 60.0;
        *bucket = Bucket { left: (bucket.left + gained).min(per_minute), at: now };
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
        let rate = Rate::new(Some(3));
        let (here, there) = (Client::Address([1, 1, 1, 1].into()), Client::Address([2, 2, 2, 2].into()));
        assert_eq!((0..5).filter(|_| rate.limit(here).is_ok()).count(), 3);
        assert!(rate.limit(there).is_ok());
    }
}
