//! A piece of a GPU's memory.

use super::{Gpu, Slice};
use crate::Dtype;

/// `len` values in a GPU's memory, which is freed in stream order when they are dropped.
pub(crate) struct Buffer {
    gpu: Gpu,
    address: u64,
    len: usize,
    dtype: Dtype,
}

impl Buffer {
    pub(super) fn new(gpu: Gpu, address: u64, len: usize, dtype: Dtype) -> Buffer {
        Buffer { gpu, address, len, dtype }
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Returns all values as a slice.
    pub fn slice(&self) -> Slice<'_> {
        Slice::at(self.address, self.len, self.dtype)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        let copy = self.gpu.alloc(self.len, self.dtype);
        self.gpu.copy(copy.slice(), self.slice());
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gpu.backend().free(self.address);
    }
}
