//! A piece of the GPU's memory.

use std::sync::Arc;

use cudarc::driver::result;

use super::{Cuda, Slice};
use crate::Dtype;

/// `len` values, given back to the stream's pool when dropped.
pub(crate) struct Buffer {
    gpu: Arc<Cuda>,
    ptr: u64,
    len: usize,
    dtype: Dtype,
}

impl Buffer {
    pub(super) fn new(gpu: Arc<Cuda>, ptr: u64, len: usize, dtype: Dtype) -> Buffer {
        Buffer { gpu, ptr, len, dtype }
    }

    pub fn gpu(&self) -> &Arc<Cuda> {
        &self.gpu
    }

    /// All of its values.
    pub fn slice(&self) -> Slice<'_> {
        Slice::at(self.ptr, self.len, self.dtype)
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
        // An error (the context is broken) cannot be handled here and shows at the next call.
        let _ = self.gpu.context.bind_to_thread();
        // SAFETY: the pointer came from malloc_async on this stream and is freed once.
        let _ = unsafe { result::free_async(self.ptr, self.gpu.stream.cu_stream()) };
    }
}
