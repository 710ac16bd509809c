//! Numbers that a step reads: ids, lengths, tables of pages. They lie at one address, so that a graph finds each step's.

use super::{Buffer, Gpu, Slice};
use crate::Dtype;

/// `len` numbers of 32 bits on a GPU, zeros at first.
pub(crate) struct Ints(Buffer);

impl Ints {
    pub fn new(gpu: &Gpu, len: usize) -> Ints {
        Ints(gpu.zeros(len, Dtype::U32))
    }

    /// The numbers from `at` on.
    #[track_caller]
    pub fn from(&self, at: usize) -> Slice<'_> {
        self.0.slice().from(at)
    }

    /// Overwrites some of them, in the stream's order.
    #[track_caller]
    pub fn write(&mut self, at: usize, values: &[u32]) {
        self.0.gpu().overwrite(self.from(at).part(0..values.len()), values);
    }
}
