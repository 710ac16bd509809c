//! One H200, B 32, H 10, T 2,048, D 128: forward 1.11 ms (309 TFLOP/s), backward 3.41 ms (252); with mma instead
//! of wgmma 1.58 and 6.02. cuDNN, the rate to reach: 0.64 and 2.25.

use std::sync::Arc;

use super::{Saved, Shape};
use crate::Tensor;
use crate::cuda::{Cuda, Dtype, Launch, blocks, sources};

/// As in attention.cu: queries (or keys) of a block, and its threads.
const ROWS: usize = 128;
const THREADS: u32 = 256;

/// -> y (B, T, H, D), log-sum-exp to the base 2 (B, H, T)
pub fn forward(gpu: &Arc<Cuda>, q: &Tensor, k: &Tensor, v: &Tensor, s: Shape) -> (Tensor, Tensor) {
    let y = Tensor::unwritten(gpu, Dtype::Bf16, q.shape());
    let lse = Tensor::unwritten(gpu, Dtype::F32, &[s.b, s.h, s.t]);
    let launch = kernel(gpu, "forward", s).ptr(y.ptr()).ptr(lse.ptr());
    let launch = shape(launch.ptr(q.bf16_ptr()).ptr(k.bf16_ptr()).ptr(v.bf16_ptr()), s);
    // SAFETY: all tensors have the shapes that `Shape::of` checked; a block for each 128 queries of a head.
    unsafe { launch.run([s.t.div_ceil(ROWS), s.h, s.b], THREADS, shared_bytes(s, 1, stage(gpu)[0])) }
    (y, lse)
}

/// dy (B, T, H, D) -> dq (B, T, H, D), dk and dv (B, T, KVH, D)
pub fn backward(gpu: &Arc<Cuda>, dy: &Tensor, saved: &Saved, s: Shape) -> [Tensor; 3] {
    let Saved { q, k, v, y, lse } = saved;
    let [dq, dk, dv] = [q, k, v].map(|x| Tensor::unwritten(gpu, Dtype::Bf16, x.shape()));
    let delta = Tensor::unwritten(gpu, Dtype::F32, lse.shape());
    let heads = s.b * s.t * s.h;
    let launch = kernel(gpu, "delta", s).ptr(delta.ptr()).ptr(dy.bf16_ptr()).ptr(y.bf16_ptr());
    // SAFETY: D / 8 threads for each head of each token.
    unsafe { launch.u32(s.t).u32(s.h).u32(heads).run(blocks(heads * s.d / 8, THREADS), THREADS, 0) }

    let inputs = [dy, q, k, v].map(Tensor::bf16_ptr).into_iter().chain([lse.ptr(), delta.ptr()]);
    let with_inputs = |launch| shape(inputs.clone().fold(launch, Launch::ptr), s);
    let launch = with_inputs(kernel(gpu, "backward_kv", s).ptr(dk.ptr()).ptr(dv.ptr()));
    // SAFETY: as in forward; a block for each 128 keys of a key head.
    unsafe { launch.run([s.t.div_ceil(ROWS), s.kvh, s.b], THREADS, shared_bytes(s, 2, stage(gpu)[1])) }
    let launch = with_inputs(kernel(gpu, "backward_q", s).ptr(dq.ptr()));
    // SAFETY: as in forward.
    unsafe { launch.run([s.t.div_ceil(ROWS), s.h, s.b], THREADS, shared_bytes(s, 2, stage(gpu)[1])) }
    [dq, dk, dv]
}

#[track_caller]
fn kernel<'a>(gpu: &'a Cuda, name: &str, s: Shape) -> Launch<'a> {
    assert!(s.d == 64 || s.d == 128, "attention on CUDA: head_dim {}; 64 and 128 work", s.d);
    gpu.kernel(sources::attention, &format!("attention_{name}_{}", s.d))
}

fn shape(launch: Launch, s: Shape) -> Launch {
    launch.u32(s.t).u32(s.h).u32(s.kvh).u32(s.window.min(s.t)).f32(s.scale())
}

/// Rows of a stage in forward and in backward, as in attention.cu. Hopper has room for more.
fn stage(gpu: &Cuda) -> [usize; 2] {
    if gpu.arch() == "sm_90a" { [128, 64] } else { [64, 32] }
}

/// `tiles` tiles of a block's own rows and two stages of two tiles each that stream past.
fn shared_bytes(s: Shape, tiles: usize, stage: usize) -> u32 {
    (2 * s.d * (tiles * ROWS + 2 * 2 * stage)) as u32
}
