//! Copies of values in another type.

use super::{Buffer, Cuda, blocks, sources};
use crate::Dtype;

const THREADS: u32 = 256;

impl Cuda {
    /// Copies values from one type to the other.
    pub(crate) fn convert(&self, to: &Buffer, from: &Buffer) {
        self.convert_to(to.ptr(), to.dtype(), from);
    }

    /// Copies to an address with room for all of `from`; for vectors of eight a multiple of 16 bytes.
    pub(crate) fn convert_to(&self, to: u64, dtype: Dtype, from: &Buffer) {
        let name = match (from.dtype(), dtype) {
            (Dtype::F32, Dtype::Bf16) => "f32_to_bf16",
            (Dtype::Bf16, Dtype::F32) => "bf16_to_f32",
            (Dtype::F32, Dtype::F32) | (Dtype::Bf16, Dtype::Bf16) => {
                return self.copy(to, from.ptr(), from.len() * dtype.bytes());
            }
            (Dtype::F32 | Dtype::Bf16, other) | (other @ (Dtype::Int8 | Dtype::U32), _) => {
                other.has_no("conversion of values")
            }
        };
        let launch = self.kernel(sources::elementwise, name).ptr(to).ptr(from.ptr()).u64(from.len());
        // SAFETY: both hold `len` values; the kernel stops there.
        unsafe { launch.run(blocks(from.len().div_ceil(8), THREADS), THREADS, 0) }
    }
}
