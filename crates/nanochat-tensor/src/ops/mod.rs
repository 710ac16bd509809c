//! The ops of a GPT, one folder each: `mod.rs` states the math, checks shapes and records the backward pass; `cpu.rs`
//! is the CPU's kernel, and `cuda.rs` launches the kernels of `<op>.cu` on a GPU. A new op needs one folder, one line
//! here, and one in `sources!` of cuda/kernels.rs for its `.cu`.

mod argmax;
pub(crate) mod attention;
pub(crate) mod attention_with_kv_cache;
pub(crate) mod decode_attention;
pub(crate) mod decode_linear;
mod embedding;
mod limits;
mod linear;
mod linear_softcap_cross_entropy;
mod mlp;
pub(crate) mod paged;
mod residual_add;
pub(crate) mod rms_norm;
pub(crate) mod rotary_qk_norm;
pub mod sample;
pub(crate) mod take_rows;

pub use limits::ShapeLimits;
pub use linear_softcap_cross_entropy::{
    CPU_LOGITS, GPU_LOGIT_ROWS, SOFTCAP, cpu_logit_rows, softcap, softcapped_logits,
};
pub use rms_norm::EPS;
