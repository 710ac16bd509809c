//! Free buffers on the CPU, kept by length for the next tensor of that length.
//!
//! A step needs the same lengths as the one before. New memory would come from the system page by page, zeroed, and be
//! zeroed once more.

use std::collections::HashMap;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, Mutex, MutexGuard};

/// The most values that are kept (1 GiB); beyond that all are freed.
const LIMIT: usize = 256 << 20;

/// The least length that is kept; shorter buffers are left to the allocator.
const SHORTEST: usize = 4_096;

#[derive(Default)]
struct Free {
    by_length: HashMap<usize, Buffers>,
    values: usize,
}

/// The buffers of one length.
#[derive(Default)]
struct Buffers {
    free: Vec<Vec<f32>>,
    /// The number of buffers of this length that were made because none was free. At most as many are kept for reuse.
    made: usize,
}

static FREE: LazyLock<Mutex<Free>> = LazyLock::new(Mutex::default);

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Returns a buffer of unknown values; the caller must write all of them.
pub fn any(len: usize) -> Vec<f32> {
    let reused = free().take(len);
    reused.unwrap_or_else(|| vec![0.0; len])
}

pub fn zeros(len: usize) -> Vec<f32> {
    let reused = free().take(len);
    match reused {
        Some(mut values) => {
            values.fill(0.0);
            values
        }
        None => vec![0.0; len],
    }
}

impl Free {
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        if len < SHORTEST {
            return None;
        }
        let buffers = self.by_length.entry(len).or_default();
        let taken = buffers.free.pop();
        match &taken {
            Some(_) => self.values -= len,
            None => buffers.made += 1,
        }
        taken
    }

    fn put(&mut self, values: Vec<f32>) {
        let len = values.len();
        if self.values + len > LIMIT {
            *self = Free::default();
        }
        let Some(buffers) = self.by_length.get_mut(&len).filter(|buffers| buffers.free.len() < buffers.made)
        else {
            return;
        };
        buffers.free.push(values);
        self.values += len;
    }
}

/// The values of a tensor; the buffer is kept for the next one when they are dropped.
#[derive(Clone)]
pub struct Values(pub Vec<f32>);

impl Values {
    /// Returns a buffer of unknown values, like the function `any`.
    pub fn any(len: usize) -> Values {
        Values(any(len))
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        if self.0.len() >= SHORTEST {
            free().put(mem::take(&mut self.0));
        }
    }
}

impl Deref for Values {
    type Target = Vec<f32>;

    fn deref(&self) -> &Vec<f32> {
        &self.0
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_the_next_one_of_its_length() {
        let len = 123_457; // used by no other test
        let mut values = Values::any(len);
        values[5] = 7.0;
        drop(values);
        assert_eq!(any(len)[5], 7.0);
        drop(Values(vec![7.0; len]));
        assert!(zeros(len).iter().all(|&v| v == 0.0));
    }

    #[test]
    fn no_more_are_kept_than_were_asked_for() {
        let mut free = Free::default();
        for _ in 0..2 {
            assert_eq!(free.take(SHORTEST), None);
        }
        for kept in [1, 2, 2] {
            free.put(vec![0.0; SHORTEST]);
            assert_eq!(free.values, kept * SHORTEST);
        }
        free.put(vec![0.0; SHORTEST + 1]);
        assert_eq!(free.values, 2 * SHORTEST);
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let mut free = Free::default();
        assert_eq!(free.take(SHORTEST), None);
        free.values = LIMIT - 10;
        free.put(vec![0.0; SHORTEST]);
        assert_eq!((free.values, free.by_length.len()), (0, 0));
    }
}
