//! The ops a GPT is made of, one folder each: `mod.rs` states the math, checks shapes and records the backward;
//! `cpu.rs` is the kernel on the CPU, `cuda.rs` launches those of `<op>.cu` on a GPU. A new op is one folder, one line
//! here, and one in `sources!` of cuda/kernels.rs for its `.cu`.

/// Runs `cpu::f(..)` or `cuda::f(gpu, ..)` of the op folder it is called from, by where `tensor` lives and by the
/// language of that GPU. What stands after a semicolon is for the CPU alone.
macro_rules! dispatch {
    ($tensor:expr, $f:ident($($arg:expr),* $(,)? $(; $cpu:expr)?)) => {
        match $tensor.gpu().cloned() {
            None => cpu::$f($($arg),* $(, $cpu)?),
            Some(gpu) => match gpu.language() {
                crate::gpu::Language::Cuda => cuda::$f(&gpu, $($arg),*),
            },
        }
    };
}

mod argmax;
pub(crate) mod attention;
pub(crate) mod attention_with_kv_cache;
pub(crate) mod decode_attention;
pub(crate) mod decode_linear;
pub(crate) mod elementwise;
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
