//! A kernel and its arguments, as a kind of GPU starts it.

/// A file of kernels: its name, and the path and text of each of its parts, shared headers first.
#[derive(Clone, Copy)]
pub(crate) struct KernelFile(pub &'static str, pub &'static [(&'static str, &'static str)]);

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

/// A kernel with all that its launch needs but the grid.
pub(crate) struct KernelCall {
    pub file: KernelFile,
    pub name: String,
    /// The arguments in the kernel's order.
    pub arguments: Vec<Argument>,
    /// Whether the kernel may begin before the previous one has ended.
    pub overlaps: bool,
}
