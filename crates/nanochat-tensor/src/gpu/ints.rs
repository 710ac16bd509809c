//! Integers that a step reads: ids, lengths, page tables. Their address does not change, so that a graph finds each
//! step's values.

use super::{Buffer, Gpu, Slice};
use crate::Dtype;

/// `len` u32 values on a GPU, initially zero.
pub(crate) struct Ints(Buffer);

impl Ints {
    pub fn new(gpu: &Gpu, len: usize) -> Ints {
        Ints(gpu.zeros(len, Dtype::U32))
    }

    /// Returns the values from index `at` on.
    #[track_caller]
    pub fn from(&self, at: usize) -> Slice<'_> {
        self.0.slice().from(at)
    }

    /// Overwrites the values from index `at` on, in stream order.
    #[track_caller]
    pub fn write(&mut self, at: usize, values: &[u32]) {
        self.0.gpu().overwrite(self.from(at).part(0..values.len()), values);
    }
}
