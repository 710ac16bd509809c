use std::sync::Arc;

use crate::Tensor;
use crate::cuda::{Cuda, Dtype, blocks, sources};

const THREADS: u32 = 256;

pub fn forward(gpu: &Arc<Cuda>, x: &Tensor) -> Tensor {
    let y = Tensor::unwritten(gpu, Dtype::Bf16, x.shape());
    let launch = gpu.kernel(sources::relu_squared, "relu_squared_forward").ptr(y.ptr()).ptr(x.bf16_ptr());
    // SAFETY: x and y hold `len` values.
    unsafe { launch.u64(x.len()).run(grid(x), THREADS, 0) }
    y
}

pub fn backward(gpu: &Arc<Cuda>, dx: &mut Tensor, beta: f32, x: &Tensor, dy: &Tensor) {
    let launch = gpu.kernel(sources::relu_squared, "relu_squared_backward").ptr(dx.ptr_mut());
    let launch = launch.ptr(x.bf16_ptr()).ptr(dy.bf16_ptr()).u32(usize::from(beta != 0.0)).u64(x.len());
    // SAFETY: all hold `len` values.
    unsafe { launch.run(grid(x), THREADS, 0) }
}

/// Turns dy into dx where it lies, given the output alone.
pub fn backward_from_output(gpu: &Arc<Cuda>, dy: &mut Tensor, y: &Tensor) {
    let kernel = gpu.kernel(sources::relu_squared, "relu_squared_backward_from_output");
    let launch = kernel.ptr(dy.ptr_mut()).ptr(y.bf16_ptr()).u64(y.len());
    // SAFETY: both hold `len` values, and each thread reads its values of dy before it writes them.
    unsafe { launch.run(grid(y), THREADS, 0) }
}

#[track_caller]
fn grid(x: &Tensor) -> [usize; 3] {
    assert!(x.len().is_multiple_of(8), "relu_squared on CUDA: {:?} is not a multiple of 8 values", x.shape());
    blocks(x.len() / 8, THREADS)
}
