//! Attention on a GPU: on Hopper with the kernels of attention_sm90.cu, elsewhere with those of attention.cu.
//!
//! One H200, B 32, H 10, T 2,048, D 128, in TFLOP/s of the causal half (2·B·H·T²·D forward, 2.5 times that backward):
//!
//! |          | attention_sm90.cu | attention.cu | cuDNN 9.14 | FlashAttention-2 |
//! |----------|-------------------|--------------|------------|------------------|
//! | forward  | 557 (0.62 ms)     | 217 (1.58)   | 540 (0.64) | 235 (1.46)       |
//! | backward | 386 (2.22 ms)     | 143 (6.02)   | 382 (2.25) | 206 (4.18)       |

use super::{AttentionShape, GPU_HEAD_DIMS, Saved};
use crate::cuda::{Cuda, sources};
use crate::gpu::{Buffer, Gpu, Launch, Slice, Tiles, blocks};
use crate::{Dtype, Tensor};

/// The number of queries (or keys) in a tile, as in both .cu files.
const ROWS: usize = 128;

/// Returns y (B, T, H, D) and the log-sum-exp to the base 2 (B, H, T rounded up to 128).
pub fn forward(gpu: &Gpu, q: &Tensor, k: &Tensor, v: &Tensor, s: AttentionShape) -> (Tensor, Tensor) {
    let y = Tensor::unwritten(gpu, Dtype::Bf16, q.shape());
    let lse = Tensor::unwritten(gpu, Dtype::F32, &[s.b, s.h, s.padded()]);
    if hopper(gpu) {
        let maps = [tiles(q, s), tiles(k, s), tiles(v, s), tiles(&y, s)];
        launch_sm90(gpu, "forward", maps, [lse.slice()], s.h, 6 * s.tile(ROWS), s);
    } else {
        let launch = kernel(gpu, "forward", s).slice(y.slice()).slice(lse.slice());
        let launch = sizes(launch.slice(q.bf16_slice()).slice(k.bf16_slice()).slice(v.bf16_slice()), s);
        // SAFETY: all tensors have the shapes that `Shape::of` checked; a block for each 128 queries of a head.
        unsafe { launch.run([s.tiles(), s.h, s.b], 256, (s.tile(ROWS) + 4 * s.tile(64)) as u32) }
    }
    (y, lse)
}

/// dy (B, T, H, D) -> dq (B, T, H, D), dk and dv (B, T, KVH, D)
pub fn backward(gpu: &Gpu, dy: &Tensor, saved: &Saved, s: AttentionShape) -> [Tensor; 3] {
    let Saved { q, k, v, y, lse } = saved;
    let [dq, dk, dv] = [q, k, v].map(|x| Tensor::unwritten(gpu, Dtype::Bf16, x.shape()));
    let delta = Tensor::unwritten(gpu, Dtype::F32, lse.shape());
    let rows = s.b * s.padded() * s.h;
    let launch = kernel(gpu, "delta", s).slice(delta.slice()).slice(dy.bf16_slice()).slice(y.bf16_slice());
    // SAFETY: D / 8 threads for each head of each token, those past the end of a row included.
    unsafe { sizes(launch, s).u32(rows).run(blocks(rows * s.d / 8, 256), 256, 0) }

    let inputs = [dy, q, k, v];
    if hopper(gpu) {
        let maps =
            |outputs: &[&Tensor]| outputs.iter().chain(&inputs).map(|x| tiles(x, s)).collect::<Vec<_>>();
        let rows = [lse.slice(), delta.slice()];
        let stage = 2 * s.tile(64);
        // 512 bytes of a stage are 64 values each of lse and delta.
        launch_sm90(
            gpu,
            "backward_kv",
            maps(&[&dk, &dv]),
            rows,
            s.kvh,
            4 * s.tile(ROWS) + 3 * (stage + 512),
            s,
        );
        launch_sm90(gpu, "backward_q", maps(&[&dq]), rows, s.h, 3 * s.tile(ROWS) + 3 * stage, s);
    } else {
        let inputs = inputs.map(Tensor::bf16_slice).into_iter().chain([lse.slice(), delta.slice()]);
        let with_inputs = |launch| sizes(inputs.clone().fold(launch, Launch::slice), s);
        let bytes = (2 * s.tile(ROWS) + 4 * s.tile(32)) as u32;
        let launch = with_inputs(kernel(gpu, "backward_kv", s).slice(dk.slice()).slice(dv.slice()));
        // SAFETY: as in forward; a block for each 128 keys of a key head.
        unsafe { launch.run([s.tiles(), s.kvh, s.b], 256, bytes) }
        let launch = with_inputs(kernel(gpu, "backward_q", s).slice(dq.slice()));
        // SAFETY: as in forward.
        unsafe { launch.run([s.tiles(), s.h, s.b], 256, bytes) }
    }
    [dq, dk, dv]
}

impl AttentionShape {
    /// Returns the rows of lse and delta for each head: T rounded up to whole tiles.
    fn padded(self) -> usize {
        self.t.next_multiple_of(ROWS)
    }

    fn tiles(self) -> usize {
        self.t.div_ceil(ROWS)
    }

    /// Returns the bytes of `rows` rows of one head.
    fn tile(self, rows: usize) -> usize {
        2 * self.d * rows
    }
}

fn hopper(gpu: &Gpu) -> bool {
    Cuda::of(gpu).arch() == "sm_90a"
}

#[track_caller]
fn kernel<'a>(gpu: &'a Gpu, name: &str, s: AttentionShape) -> Launch<'a> {
    assert!(GPU_HEAD_DIMS.contains(&s.d), "attention on CUDA: head_dim {}; {GPU_HEAD_DIMS:?} work", s.d);
    gpu.kernel(sources::attention, &format!("attention_{name}_{}", s.d))
}

fn sizes(launch: Launch, s: AttentionShape) -> Launch {
    launch.u32(s.t).u32(s.padded()).u32(s.h).u32(s.kvh).u32(s.window.min(s.t)).f32(s.scale())
}

fn tiles(x: &Tensor, s: AttentionShape) -> Tiles {
    let heads = x.shape()[2];
    Tiles { address: x.bf16_slice().address(), shape: [s.b, s.t, heads, s.d] }
}

/// Launches one block on each multiprocessor; the blocks take tiles from a counter until those of `heads` heads are
/// done.
#[track_caller]
fn launch_sm90<'a>(
    gpu: &Gpu,
    name: &str,
    maps: impl IntoIterator<Item = Tiles>,
    rows: impl IntoIterator<Item = Slice<'a>>,
    heads: usize,
    tile_bytes: usize,
    s: AttentionShape,
) {
    assert!(GPU_HEAD_DIMS.contains(&s.d), "attention on CUDA: head_dim {}; {GPU_HEAD_DIMS:?} work", s.d);
    let launch = gpu.kernel(sources::attention_sm90, &format!("attention_{name}_sm90_{}", s.d));
    let counter: Buffer = gpu.zeros(1, Dtype::U32);
    let launch = maps.into_iter().fold(launch, Launch::tiles);
    let launch = rows.into_iter().fold(launch, Launch::slice).slice(counter.slice());
    let launch = launch.u32(s.t).u32(s.padded()).u32(s.h).u32(s.kvh).u32(s.b).u32(s.window.min(s.t));
    let launch = launch.u32(heads_together(gpu, s)).f32(s.scale());
    let grid = [(s.tiles() * heads * s.b).min(Cuda::of(gpu).multiprocessors() as usize), 1, 1];
    // SAFETY: the maps have the shapes that `Shape::of` checked, and the kernel takes no tile beyond them; 256 bytes
    // hold the barriers that follow the tiles.
    unsafe { launch.run(grid, 384, (tile_bytes + 256) as u32) }
}

/// Returns how many heads are computed at a time: few enough that their keys and values stay in the L2 cache (16 MiB of
/// its 50 measured best), and enough to keep every multiprocessor busy twice over.
fn heads_together(gpu: &Gpu, s: AttentionShape) -> usize {
    let cached = (16 << 20) / (2 * s.tile(s.t));
    cached.max((2 * Cuda::of(gpu).multiprocessors() as usize).div_ceil(s.tiles())).max(1)
}
