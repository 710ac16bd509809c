//! A kernel and its arguments.

use super::{Backend, Slice};

/// A file of kernels: its name, and the path and text of each of its parts, shared headers first.
#[derive(Clone, Copy)]
pub(crate) struct Source(pub &'static str, pub &'static [(&'static str, &'static str)]);

/// A kernel's argument, passed by value.
pub(crate) enum Argument {
    U32(u32),
    /// A number, or an address.
    U64(u64),
    F32(f32),
    Tiles(Tiles),
}

/// A bf16 tensor (B, T, H, D) at an address, from which a kernel loads tiles of 64 tokens by 64 values of one head.
/// Values beyond T are read as zeros and not written.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub address: u64,
    pub shape: [usize; 4],
}

/// A launch that is being built; arguments are added in the kernel's order.
pub(crate) struct Launch<'a> {
    backend: &'a dyn Backend,
    pub source: Source,
    pub name: String,
    pub arguments: Vec<Argument>,
    /// Whether the kernel may begin before the previous one has ended.
    pub overlaps: bool,
}

impl<'a> Launch<'a> {
    pub fn new(backend: &'a dyn Backend, source: Source, name: &str) -> Launch<'a> {
        Launch { backend, source, name: name.to_string(), arguments: Vec::with_capacity(16), overlaps: false }
    }

    /// Adds a pointer to the first of these values; None adds a null pointer.
    pub fn slice<'s>(mut self, slice: impl Into<Option<Slice<'s>>>) -> Self {
        self.arguments.push(Argument::U64(slice.into().map_or(0, Slice::address)));
        self
    }

    pub fn u64(mut self, value: usize) -> Self {
        self.arguments.push(Argument::U64(value as u64));
        self
    }

    pub fn u32(mut self, value: usize) -> Self {
        let value = u32::try_from(value).unwrap_or_else(|_| panic!("{}: {value} is too large", self.name));
        self.arguments.push(Argument::U32(value));
        self
    }

    pub fn f32(mut self, value: f32) -> Self {
        self.arguments.push(Argument::F32(value));
        self
    }

    pub fn tiles(mut self, tiles: Tiles) -> Self {
        self.arguments.push(Argument::Tiles(tiles));
        self
    }

    /// Lets the kernel begin before the previous one has ended, if the card supports it. The kernel must wait by itself
    /// (`wait_for_previous`) before it reads what that one writes.
    pub fn overlapping(mut self) -> Self {
        self.overlaps = true;
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
            unsafe { self.backend.launch(&self, grid, threads, shared_bytes) }
        }
    }
}

/// Returns the grid of blocks of `threads` threads that covers `work` items.
pub(crate) fn blocks(work: usize, threads: u32) -> [usize; 3] {
    [work.div_ceil(threads as usize), 1, 1]
}
