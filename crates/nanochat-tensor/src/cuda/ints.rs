//! Numbers that a step reads: ids, lengths, tables of pages. They lie at one address, so that a graph finds each step's.

use std::sync::Arc;

use super::{Buffer, Cuda};
use crate::Dtype;

/// `len` numbers of 32 bits on a GPU, zeros at first.
pub(crate) struct Ints(Buffer);

impl Ints {
    pub fn new(gpu: &Arc<Cuda>, len: usize) -> Ints {
        Ints(gpu.zeros(len, Dtype::U32))
    }

    /// The address of the numbers from `at` on.
    pub fn ptr(&self, at: usize) -> u64 {
        assert!(at <= self.0.len(), "number {at} of {}", self.0.len());
        self.0.ptr() + 4 * at as u64
    }

    /// Overwrites some of them, in the stream's order.
    #[track_caller]
    pub fn write(&mut self, at: usize, values: &[u32]) {
        assert!(at + values.len() <= self.0.len(), "numbers {at} + {} of {}", values.len(), self.0.len());
        self.0.gpu().overwrite(self.ptr(at), values);
    }
}
