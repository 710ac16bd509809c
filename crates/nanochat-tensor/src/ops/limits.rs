//! The model shapes that a device's kernels support.

use super::{attention, decode_attention, rms_norm};
use crate::Device;
use crate::gpu::KernelLanguage;

/// The shapes of a model that a device has kernels for.
#[derive(Clone, Copy, Debug)]
pub struct ShapeLimits {
    /// The supported numbers of values in an attention head.
    pub head_dims: &'static [usize],
    /// The most query heads that share a key head.
    pub queries_a_key: usize,
    /// The most values in a row of the residual stream.
    pub widest: usize,
    /// The number of values in a row is a multiple of this.
    pub width_step: usize,
}

impl ShapeLimits {
    pub const CUDA: ShapeLimits = ShapeLimits {
        head_dims: &attention::GPU_HEAD_DIMS,
        queries_a_key: decode_attention::QUERIES,
        widest: rms_norm::cuda::WIDEST,
        width_step: rms_norm::cuda::STEP,
    };
}

impl Device {
    /// Returns the shapes that there are kernels for; None if all shapes are supported.
    pub fn limits(&self) -> Option<ShapeLimits> {
        match self {
            Device::Cpu => None,
            Device::Gpu(gpu) => match gpu.language() {
                KernelLanguage::Cuda => Some(ShapeLimits::CUDA),
            },
        }
    }
}
