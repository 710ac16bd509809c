//! Tensors, a tape of coarse fused ops, and their kernels for CPU and GPU. This crate knows nothing of GPTs.
//!
//! - [`Tensor`]: a contiguous row-major array, on the CPU or a GPU ([`Device`]).
//! - [`Tape`]: automatic differentiation; every op is one of its methods, and [`Tape::backward`] adds gradients into
//!   [`Grads`].
//! - `ops/<op>/`: one folder per op: `mod.rs` states the math, checks shapes and records the backward, `cpu.rs` is the
//!   CPU kernel, `cuda.rs` launches the kernels in `<op>.cu`.
//! - [`optim`]: the optimizer's updates on a GPU. [`gpu`]: the interface to any kind of GPU; [`cuda`]: NVIDIA's.
//! - [`packed`]: weights for generation in f32, bf16 or int8.
//! - [`comm`]: communication between the processes of a run, each with its own device.
//! - [`profile`]: where the time of a step goes.
//! - [`gemm`]: matrix products on strided views. [`simd`]: the loops of which the CPU kernels are made.
//! - [`safetensors`]: weights on disk.

#[macro_use]
mod dispatch;

pub mod comm;
pub mod cuda;
mod device;
mod dtype;
mod elementwise;
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
