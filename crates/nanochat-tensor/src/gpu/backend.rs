//! The seam that a kind of GPU fills.

use std::any::Any;

use super::{Launch, Product, Slice};
use crate::profile::Clock;

/// The language that a GPU's kernels are written in, which says the file of an op that launches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// CUDA C++: `cuda.rs` and `<op>.cu`.
    Cuda,
}

/// The memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// What tensors of this program can still get.
    pub free: usize,
    /// The most that tensors held at one time.
    pub peak: usize,
    pub total: usize,
}

/// One GPU of one kind. Work is done in the order in which it is given. What fails at work unwinds with one sentence
/// ([`fail`](super::fail)).
///
/// Slices are checked before they come here: they lie inside their buffers, and both sides of a copy have room and fit.
pub(crate) trait Backend: Clock + Any + Send + Sync {
    /// The name of the card.
    fn name(&self) -> &str;

    fn language(&self) -> Language;

    fn memory(&self) -> Memory;

    /// Sets the clause that the sentence about memory that ends closes with.
    fn advise_when_full(&self, advice: String);

    /// Returns the address of new memory. A kind whose buffers have no addresses gives each a range of numbers of its
    /// own.
    fn alloc(&self, bytes: usize) -> u64;

    /// Frees memory once the work given so far is done. Errors are left to the next call.
    fn free(&self, address: u64);

    /// Sets all bytes to zero.
    fn clear(&self, slice: Slice);

    /// Writes bytes to the beginning of a slice; they may be changed as soon as this returns.
    fn write(&self, to: Slice, bytes: &[u8]);

    /// Reads bytes from the beginning of a slice; waits for them.
    fn read(&self, from: Slice, into: &mut [u8]);

    fn copy(&self, to: Slice, from: Slice);

    /// Copies f32 values to bf16, or the other way.
    fn convert(&self, to: Slice, from: Slice);

    /// Starts a kernel: `grid` blocks of `threads`, each with so much shared memory.
    ///
    /// # Safety
    /// The arguments must be those of the kernel in number, order and type, and the pointers valid for what it reads
    /// and writes with this grid.
    unsafe fn launch(&self, launch: &Launch, grid: [usize; 3], threads: u32, shared_bytes: u32);

    /// Multiplies matrices.
    fn multiply(&self, product: &Product);

    /// Records the work that is given meanwhile, none of which runs; see [`Graph`](super::Graph).
    fn record(&self, work: &mut dyn FnMut()) -> Box<dyn Recording>;
}

/// Recorded work.
pub(crate) trait Recording: Send {
    /// Gives all of it to the GPU.
    fn launch(&mut self);
}
