//! Tensor maps: the descriptions of tensors by which Hopper's tensor memory accelerator (TMA) loads tiles.

use cudarc::driver::{DeviceRepr, sys};

use super::Cuda;
use crate::gpu::Tiles;

/// The values and rows of a tile: 64 bf16 values are the 128 bytes within which the TMA spreads rows over memory banks.
const TILE: [u32; 2] = [64, 64];

/// A CUtensorMap, passed to kernels by value.
#[repr(transparent)]
pub(crate) struct TensorMap(sys::CUtensorMap);

// SAFETY: the kernels' parameter has the same 128 bytes, which only the GPU interprets.
unsafe impl DeviceRepr for TensorMap {}

impl Cuda {
    /// Makes the map of a tensor (B, T, H, D) and its tiles.
    pub(super) fn tensor_map(&self, tiles: &Tiles) -> TensorMap {
        let [b, t, h, d] = tiles.shape;
        self.bind();
        let sizes = [d, h, t, b].map(|size| size as u64);
        let strides = [d, h * d, t * h * d].map(|values| 2 * values as u64);
        let (tile, steps) = ([TILE[0], 1, TILE[1], 1], [1; 4]);
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have an entry for each of the four dimensions (three for strides); the driver only reads
        // them and writes the map. It checks the address and the strides.
        let made = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                4,
                tiles.address as *mut std::ffi::c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        self.check(made.result(), "describing a tensor");
        TensorMap(map)
    }
}
