//! Building the call of a kernel.

use super::{Argument, GpuBackend, KernelCall, KernelFile, Slice, Tiles};

/// A launch that is being built; arguments are added in the kernel's order.
pub(crate) struct Launch<'a> {
    backend: &'a dyn GpuBackend,
    kernel: KernelCall,
}

impl<'a> Launch<'a> {
    pub fn new(backend: &'a dyn GpuBackend, file: KernelFile, name: &str) -> Launch<'a> {
        let kernel =
            KernelCall { file, name: name.to_string(), arguments: Vec::with_capacity(16), overlaps: false };
        Launch { backend, kernel }
    }

    /// Adds a pointer to the first of these values; None adds a null pointer.
    pub fn slice<'s>(mut self, slice: impl Into<Option<Slice<'s>>>) -> Self {
        self.kernel.arguments.push(Argument::U64(slice.into().map_or(0, Slice::address)));
        self
    }

    pub fn u64(mut self, value: usize) -> Self {
        self.kernel.arguments.push(Argument::U64(value as u64));
        self
    }

    pub fn u32(mut self, value: usize) -> Self {
        let value =
            u32::try_from(value).unwrap_or_else(|_| panic!("{}: {value} is too large", self.kernel.name));
        self.kernel.arguments.push(Argument::U32(value));
        self
    }

    pub fn f32(mut self, value: f32) -> Self {
        self.kernel.arguments.push(Argument::F32(value));
        self
    }

    pub fn tiles(mut self, tiles: Tiles) -> Self {
        self.kernel.arguments.push(Argument::Tiles(tiles));
        self
    }

    /// Lets the kernel begin before the previous one has ended, if the card supports it. The kernel must wait by itself
    /// (`wait_for_previous`) before it reads what that one writes.
    pub fn overlapping(mut self) -> Self {
        self.kernel.overlaps = true;
        self
    }

    /// Launches the kernel, unless the grid is empty.
    ///
    /// # Safety
    /// The arguments must match those of the kernel in number, order and type, and the pointers must be valid for what
    /// it reads and writes with this grid.
    pub unsafe fn run(self, grid: [usize; 3], threads: u32, shared_bytes: u32) {
        if !grid.contains(&0) {
            // SAFETY: the caller's promise.
            unsafe { self.backend.launch(&self.kernel, grid, threads, shared_bytes) }
        }
    }
}

/// Returns the grid of blocks of `threads` threads that covers `work` items.
pub(crate) fn blocks(work: usize, threads: u32) -> [usize; 3] {
    [work.div_ceil(threads as usize), 1, 1]
}
