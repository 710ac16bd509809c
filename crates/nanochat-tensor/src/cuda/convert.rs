//! Copies of values in another type.

use super::{Buffer, Cuda, Slice, blocks, sources};
use crate::Dtype;

const THREADS: u32 = 256;

impl Cuda {
    /// Copies values from one type to the other.
    pub(crate) fn convert(&self, to: &Buffer, from: &Buffer) {
        self.convert_to(to.slice(), from);
    }

    /// Copies to where there is room for all of `from`; for vectors of eight its address is a multiple of 16 bytes.
    pub(crate) fn convert_to(&self, to: Slice, from: &Buffer) {
        let name = match (from.dtype(), to.dtype()) {
            (Dtype::F32, Dtype::Bf16) => "f32_to_bf16",
            (Dtype::Bf16, Dtype::F32) => "bf16_to_f32",
            (Dtype::F32, Dtype::F32) | (Dtype::Bf16, Dtype::Bf16) => {
                return self.copy(to, from.slice());
            }
            (Dtype::F32 | Dtype::Bf16, other) | (other @ (Dtype::Int8 | Dtype::U32), _) => {
                other.has_no("conversion of values")
            }
        };
        assert!(to.len() >= from.len(), "converting {} values into {}", from.len(), to.len());
        let launch = self.kernel(sources::elementwise, name).slice(to).slice(from.slice()).u64(from.len());
        // SAFETY: both hold `len` values; the kernel stops there.
        unsafe { launch.run(blocks(from.len().div_ceil(8), THREADS), THREADS, 0) }
    }
}
