use crate::cuda::sources;
use crate::gpu::{Gpu, blocks};
use crate::ops::linear::cuda;
use crate::{Dtype, Tensor};

const THREADS: u32 = 256;

/// relu²(x (.., C) · c_fc (4C, C)ᵀ) -> (.., 4C)
pub fn forward_hidden(gpu: &Gpu, x: &Tensor, c_fc: &Tensor) -> Tensor {
    let h = cuda::forward(gpu, x, c_fc);
    let activated = Tensor::unwritten(gpu, Dtype::Bf16, h.shape());
    let launch =
        gpu.kernel(sources::mlp, "relu_squared_forward").slice(activated.slice()).slice(h.bf16_slice());
    // SAFETY: both hold `len` values.
    unsafe { launch.u64(h.len()).run(grid(&h), THREADS, 0) }
    activated
}

/// 2 · max(h, 0) · (dy (.., C) · c_proj (C, 4C)) -> (.., 4C), where max(h, 0) is the root of `activated`.
pub fn backward_hidden(gpu: &Gpu, dy: &Tensor, c_proj: &Tensor, activated: &Tensor) -> Tensor {
    let mut dh = activated.target().fresh();
    cuda::backward_input(gpu, &mut dh, 0.0, dy, c_proj);
    let launch =
        gpu.kernel(sources::mlp, "relu_squared_backward").slice(dh.slice_mut()).slice(activated.bf16_slice());
    // SAFETY: both hold `len` values, and each thread reads its values of dh before it writes them.
    unsafe { launch.u64(dh.len()).run(grid(&dh), THREADS, 0) }
    dh
}

#[track_caller]
fn grid(x: &Tensor) -> [usize; 3] {
    assert!(x.len().is_multiple_of(8), "mlp on CUDA: {:?} is not a multiple of 8 values", x.shape());
    blocks(x.len() / 8, THREADS)
}
