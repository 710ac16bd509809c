//! Conversion of values between f32 and bf16.

use super::{Cuda, sources};
use crate::Dtype;
use crate::gpu::{Launch, Slice, blocks};

const THREADS: u32 = 256;

impl Cuda {
    pub(super) fn convert_values(&self, to: Slice, from: Slice) {
        let name = match from.dtype() {
            Dtype::F32 => "f32_to_bf16",
            Dtype::Bf16 => "bf16_to_f32",
            other @ (Dtype::Int8 | Dtype::U32) => other.has_no("conversion on CUDA"),
        };
        let launch = Launch::new(self, sources::elementwise, name).slice(to).slice(from).u64(from.len());
        // SAFETY: both hold `len` values of these types; the kernel stops there.
        unsafe { launch.run(blocks(from.len().div_ceil(8), THREADS), THREADS, 0) }
    }
}
