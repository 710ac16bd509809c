//! Buffers that are free again, by length, for the next tensor of that length on the CPU.
//!
//! A step asks for the same lengths as the one before. New memory would come from the system page by page, zeroed, and be
//! zeroed once more.

use std::collections::HashMap;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, Mutex, MutexGuard};

/// Values that are kept at most (1 GiB); beyond that all are given back.
const LIMIT: usize = 256 << 20;

/// Shorter ones are left to the allocator.
const SHORTEST: usize = 4_096;

#[derive(Default)]
struct Free {
    by_length: HashMap<usize, Vec<Vec<f32>>>,
    values: usize,
}

static FREE: LazyLock<Mutex<Free>> = LazyLock::new(Mutex::default);

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(|e| e.into_inner())
}

/// A buffer of any values: whoever asks for it writes all of them.
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
        let values = self.by_length.get_mut(&len)?.pop()?;
        self.values -= len;
        Some(values)
    }

    fn put(&mut self, values: Vec<f32>) {
        if self.values + values.len() > LIMIT {
            *self = Free::default();
        }
        self.values += values.len();
        self.by_length.entry(values.len()).or_default().push(values);
    }
}

/// Values of a tensor: kept for the next one when it is dropped.
#[derive(Clone)]
pub struct Values(pub Vec<f32>);

impl Values {
    /// As the function `any`.
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
        let len = 123_457; // of no other test
        drop(Values(vec![7.0; len]));
        assert_eq!(any(len)[5], 7.0);
        drop(Values(vec![7.0; len]));
        assert!(zeros(len).iter().all(|&v| v == 0.0));
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let mut free = Free { values: LIMIT - 10, ..Free::default() };
        free.put(vec![0.0; 20]);
        assert_eq!(free.values, 20);
    }
}
