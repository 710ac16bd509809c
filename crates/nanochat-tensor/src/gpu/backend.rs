//! The interface that each kind of GPU implements.

use std::any::Any;

use super::{KernelCall, Product, Slice};
use crate::profile::Clock;

/// The language of a GPU's kernels; it decides which file of an op launches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelLanguage {
    /// CUDA C++: `cuda.rs` and `<op>.cu`.
    Cuda,
}

/// The memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryUse {
    /// The bytes that tensors of this program can still get.
    pub free: usize,
    /// The most bytes that tensors held at one time.
    pub peak: usize,
    pub total: usize,
}

/// One GPU of one kind. Work runs in the order in which it is given. Work that fails unwinds with one sentence
/// ([`fail`](super::fail)).
///
/// Callers check slices first: they lie inside their buffers, and what is copied fits where it goes.
pub(crate) trait GpuBackend: Clock + Any + Send + Sync {
    /// The name of the card.
    fn name(&self) -> &str;

    fn language(&self) -> KernelLanguage;

    fn memory(&self) -> MemoryUse;

    /// Sets the advice at the end of the out-of-memory message.
    fn advise_when_full(&self, advice: String);

    /// Returns the address of new memory. A kind whose buffers have no addresses gives each a range of numbers of its
    /// own.
    fn alloc(&self, bytes: usize) -> u64;

    /// Frees memory once all work so far is done. Errors show at the next call.
    fn free(&self, address: u64);

    /// Sets all bytes of a slice to zero.
    fn clear(&self, slice: Slice);

    /// Copies bytes to the beginning of a slice; they may be changed as soon as this returns.
    fn write(&self, to: Slice, bytes: &[u8]);

    /// Copies bytes from the beginning of a slice; waits for them.
    fn read(&self, from: Slice, into: &mut [u8]);

    fn copy(&self, to: Slice, from: Slice);

    /// Converts f32 values to bf16, or bf16 values to f32.
    fn convert(&self, to: Slice, from: Slice);

    /// Launches a kernel of `grid` blocks of `threads` threads, each block with `shared_bytes` of shared memory.
    ///
    /// # Safety
    /// The arguments must match those of the kernel in number, order and type, and the pointers must be valid for what
    /// it reads and writes with this grid.
    unsafe fn launch(&self, kernel: &KernelCall, grid: [usize; 3], threads: u32, shared_bytes: u32);

    /// Multiplies matrices.
    fn multiply(&self, product: &Product);

    /// Records what `work` gives to the GPU, without running it; see [`Graph`](super::Graph).
    fn record(&self, work: &mut dyn FnMut()) -> Box<dyn Recording>;
}

/// Recorded work.
pub(crate) trait Recording: Send {
    /// Launches all of it on the GPU.
    fn launch(&mut self);
}
