use std::sync::Arc;

use super::RotaryTable;
use crate::cuda::sources;
use crate::gpu::{Gpu, blocks};
use crate::ops::attention::GPU_HEAD_DIMS;
use crate::{Dtype, Tensor};

const THREADS: u32 = 256;

/// x (B, T, H, D) -> y (B, T, H, D) and r (B·T·H)
pub fn forward(
    gpu: &Gpu,
    x: &Tensor,
    table: &RotaryTable,
    positions: &Arc<[usize]>,
    eps: f32,
) -> (Tensor, Tensor) {
    let (h, d) = head(x);
    let y = Tensor::unwritten(gpu, Dtype::Bf16, x.shape());
    let r = Tensor::unwritten(gpu, Dtype::F32, &[x.rows()]);
    let ([cos, sin], positions) = (table.on_gpu(gpu), gpu.positions(positions));
    let kernel = gpu.kernel(sources::rotary_qk_norm, &format!("rotary_qk_norm_forward_{d}"));
    let launch =
        kernel.slice(y.slice()).slice(r.slice()).slice(x.bf16_slice()).slice(cos.slice()).slice(sin.slice());
    let launch = launch.slice(positions.slice()).u32(h).u32(x.rows()).f32(eps);
    // SAFETY: x and y hold B·T·H heads, r as many values, and every position is inside the table.
    unsafe { launch.run(blocks(x.rows() * d / 8, THREADS), THREADS, 0) }
    (y, r)
}

pub fn backward(
    gpu: &Gpu,
    dx: &mut Tensor,
    beta: f32,
    dy: &Tensor,
    (y, r): (&Tensor, &Tensor),
    table: &RotaryTable,
    positions: &Arc<[usize]>,
) {
    let (h, d) = head(y);
    let ([cos, sin], positions) = (table.on_gpu(gpu), gpu.positions(positions));
    let kernel = gpu.kernel(sources::rotary_qk_norm, &format!("rotary_qk_norm_backward_{d}"));
    let launch = kernel.slice(dx.slice_mut()).slice(dy.bf16_slice()).slice(y.bf16_slice()).slice(r.slice());
    let launch = launch.slice(cos.slice()).slice(sin.slice()).slice(positions.slice());
    let launch = launch.u32(h).u32(y.rows()).u32(usize::from(beta != 0.0));
    // SAFETY: as in forward; dx and dy have the shape of y.
    unsafe { launch.run(blocks(y.rows() * d / 8, THREADS), THREADS, 0) }
}

#[track_caller]
fn head(x: &Tensor) -> (usize, usize) {
    let (h, d) = (x.shape()[2], x.shape()[3]);
    assert!(GPU_HEAD_DIMS.contains(&d), "rotary on CUDA: head_dim {d}; {GPU_HEAD_DIMS:?} work");
    (h, d)
}
