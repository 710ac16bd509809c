//! Tensors, a tape of coarse fused ops, and their kernels for CPU and GPU. Knows nothing of GPTs.
//!
//! - [`Tensor`]: a contiguous row-major array, on the CPU or a GPU ([`Device`]).
//! - [`Tape`]: every op is a method of it; [`Tape::backward`] adds gradients into [`Grads`].
//! - `ops/<op>/`: one folder an op: `mod.rs` states the math, checks shapes and records the backward,
//!   `cpu.rs` is the kernel, `cuda.rs` launches that of `<op>.cu`.
//! - [`optim`]: what the optimizer does on a GPU. [`gpu`]: what ops ask of any GPU; [`cuda`]: one of NVIDIA.
//! - [`packed`]: weights for generation in f32, bf16 or int8.
//! - [`comm`]: several processes that work together, each with its own device.
//! - [`profile`]: where the time of a step goes.
//! - [`gemm`]: matrix products on strided views. [`simd`]: the loops everything else is made of.
//! - [`safetensors`]: weights on disk.

pub mod comm;
pub mod cuda;
mod device;
mod dtype;
pub mod gemm;
pub mod gpu;
mod grads;
pub mod ops;
pub mod optim;
pub mod packed;
pub mod profile;
mod reduction;
pub mod reuse;
mod rng;
pub mod safetensors;
pub mod simd;
mod simd16;
mod tape;
mod tensor;
#[cfg(test)]
mod testing;

pub use comm::Comm;
pub use device::{Device, DeviceChoice, DeviceError, Properties};
pub use dtype::{Dtype, Recipe};

pub use grads::Grads;
pub use ops::ShapeLimits;
pub use ops::attention_with_kv_cache::{CachedRow, KvPages, PAGE};
pub use ops::decode_attention::{DecodeRow, DecodeRows, Shape, decode_attention};
pub use ops::decode_linear::{Epilogue, decode_linear};
pub use ops::paged::{Chunk, ChunkPart, PagedKv};
pub use ops::rotary_qk_norm::RotaryTable;
pub use ops::take_rows::RowIndex;
pub use reduction::{Bucket, Reduction};
pub use rng::Rng;
pub use tape::Tape;
pub use tensor::Tensor;
