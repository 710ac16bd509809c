//! The optimizer's steps on a GPU, on float32 weights, gradients and state. The gradient's norm and the clipping factor
//! stay there, so that no step waits for a number to reach the CPU.

use crate::cuda::sources;
use crate::gpu::{Buffer, Gpu, Operand, Output, Product, blocks};
use crate::{Dtype, Tensor};
use std::ops::Range;

const THREADS: u32 = 256;
/// The number of blocks that share the sum over one tensor; each writes a partial sum, so that the order of the sum is
/// fixed.
const PARTS: usize = 256;
/// The number of matrices that are orthogonalized together: enough to fill the card, with at most 1 GiB of scratch for
/// d32.
const MUON_BATCH: usize = 32;

/// The constants of one AdamW step, bias corrections included.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// 1 − lr · weight decay
    pub keep: f32,
    pub step_size: f32,
    pub root_correction: f32,
    pub betas: (f32, f32),
    pub eps: f32,
}

/// The constants of one Muon step.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    pub lr: f32,
    pub momentum: f32,
    /// The coefficients a, b, c of x ↦ a x + b x³ + c x⁵.
    pub newton_schulz: (f32, f32, f32),
    pub newton_schulz_steps: usize,
}

/// A matrix with its gradient and momentum.
pub struct MuonParam<'a> {
    pub weight: &'a mut Tensor,
    pub grad: &'a Tensor,
    pub momentum_buffer: &'a mut Tensor,
}

/// Returns the sum of the squares of all values of all tensors: (1).
#[track_caller]
pub fn sum_of_squares(tensors: &[Tensor]) -> Tensor {
    let gpu = tensors[0].buffer().gpu();
    let parts = gpu.alloc(PARTS * tensors.len(), Dtype::F32);
    for (i, tensor) in tensors.iter().enumerate() {
        let launch = gpu.kernel(sources::optim, "sum_of_squares").slice(parts.slice().from(PARTS * i));
        // SAFETY: each block writes its own of PARTS values.
        unsafe { launch.slice(tensor.slice()).u64(tensor.len()).run([PARTS, 1, 1], THREADS, 0) }
    }
    let sum = Tensor::unwritten(gpu, Dtype::F32, &[1]);
    let launch = gpu.kernel(sources::optim, "sum").slice(sum.slice()).slice(parts.slice()).u32(parts.len());
    // SAFETY: one block over all parts; one value is written.
    unsafe { launch.run([1, 1, 1], 1_024, 0) }
    sum
}

/// Returns the norm, whose square is given, and the factor that scales it down to `limit` (0: no limit): (2).
#[track_caller]
pub fn clip_factor(square: &Tensor, limit: f32) -> Tensor {
    let gpu = square.buffer().gpu();
    let factor = Tensor::unwritten(gpu, Dtype::F32, &[2]);
    let launch = gpu.kernel(sources::optim, "clip_factor").slice(factor.slice()).slice(square.slice());
    // SAFETY: one thread reads one value and writes two.
    unsafe { launch.f32(limit).run([1, 1, 1], 1, 0) }
    factor
}

/// Runs one AdamW step on the values `range` of a weight. The first values of state and gradient belong to these;
/// `clip` comes from `clip_factor`.
#[track_caller]
pub fn adamw(
    weight: &mut Tensor,
    range: Range<usize>,
    state: (&mut Tensor, &mut Tensor),
    grad: &Tensor,
    clip: &Tensor,
    step: AdamW,
) {
    let (gpu, len) = (grad.buffer().gpu(), range.len());
    assert!(range.end <= weight.len(), "adamw: {range:?} of {} values", weight.len());
    assert!([grad, state.0, state.1].iter().all(|tensor| tensor.len() >= len), "adamw: lengths differ");
    let launch = gpu.kernel(sources::optim, "adamw").slice(weight.unshared_slice_mut().part(range));
    let launch = launch
        .slice(state.0.unshared_slice_mut())
        .slice(state.1.unshared_slice_mut())
        .slice(grad.slice())
        .slice(clip.slice().from(1));
    let launch = launch.u64(len).f32(step.keep).f32(step.step_size).f32(step.root_correction);
    let launch = launch.f32(step.betas.0).f32(step.betas.1).f32(step.eps);
    // SAFETY: four float32 arrays of `len` values, four to a thread.
    unsafe { launch.run(blocks(len.div_ceil(4), THREADS), THREADS, 0) }
}

/// Runs one Muon step on matrices of one shape, orthogonalized in bf16, up to MUON_BATCH at a time.
#[track_caller]
pub fn muon(mut params: Vec<MuonParam>, clip: &Tensor, step: Muon) {
    for params in params.chunks_mut(MUON_BATCH) {
        muon_batch(params, clip, step);
    }
}

fn muon_batch(params: &mut [MuonParam], clip: &Tensor, step: Muon) {
    let gpu = clip.buffer().gpu();
    let (n, rows, cols) = (params.len(), params[0].weight.rows(), params[0].weight.cols());
    let len = rows * cols;
    assert!(len.is_multiple_of(8), "muon on CUDA: {rows} x {cols} is not a multiple of 8 values");
    let (u, parts) = (gpu.alloc(n * len, Dtype::Bf16), gpu.alloc(n * PARTS, Dtype::F32));
    for (i, param) in params.iter_mut().enumerate() {
        assert_eq!(param.weight.shape(), [rows, cols], "muon: a batch is of one shape");
        let launch = gpu.kernel(sources::optim, "muon_momentum").slice(u.slice().from(i * len));
        let launch =
            launch.slice(parts.slice().from(i * PARTS)).slice(param.momentum_buffer.unshared_slice_mut());
        let launch = launch.slice(param.grad.slice()).slice(clip.slice().from(1)).u64(len).f32(step.momentum);
        // SAFETY: all arrays hold `len` values; each block writes its own part.
        unsafe { launch.run([PARTS, 1, 1], THREADS, 0) }
    }
    let launch = gpu.kernel(sources::optim, "muon_normalize").slice(u.slice()).slice(parts.slice());
    // SAFETY: n matrices of `len` values with PARTS parts each.
    unsafe { launch.u32(PARTS).u64(len).run([PARTS, n, 1], THREADS, 0) }

    let u = orthogonalize(gpu, u, n, rows, cols, step);
    let scale = step.lr * (rows as f32 / cols as f32).max(1.0).sqrt();
    for (i, param) in params.iter_mut().enumerate() {
        let launch = gpu.kernel(sources::optim, "muon_apply").slice(param.weight.unshared_slice_mut());
        let launch = launch.slice(u.slice().from(i * len)).f32(scale).u64(len);
        // SAFETY: both hold `len` values, eight to a thread.
        unsafe { launch.run(blocks(len / 8, THREADS), THREADS, 0) }
    }
}

/// Turns n matrices x (rows, cols) of norm 1 into nearly orthogonal ones, as the CPU's optimizer does: three products a
/// step, which cuBLASLt sums in float32.
fn orthogonalize(gpu: &Gpu, mut x: Buffer, n: usize, rows: usize, cols: usize, step: Muon) -> Buffer {
    let ((a, b, c), short, tall) = (step.newton_schulz, rows.min(cols), rows > cols);
    let mut next = gpu.alloc(x.len(), Dtype::Bf16);
    let [gram, polynomial] = [(); 2].map(|()| gpu.alloc(n * short * short, Dtype::Bf16));
    let square = Operand::new(gram.slice(), short);
    for _ in 0..step.newton_schulz_steps {
        let view = Operand::new(x.slice(), cols);
        let (left, right) = if tall { (view.t(), view) } else { (view, view.t()) };
        let product =
            Product::new([short, short, rows.max(cols)], left, right, Output::new(gram.slice(), short), 0.0);
        gpu.matmul(Product { batch: n, ..product });
        let product = Product::new([short; 3], square, square, Output::new(polynomial.slice(), short), b);
        gpu.matmul(Product { added: gram.slice(), alpha: c, batch: n, ..product });
        let factor = Operand::new(polynomial.slice(), short);
        let (left, right) = if tall { (view, factor) } else { (factor, view) };
        let product = Product::new([rows, cols, short], left, right, Output::new(next.slice(), cols), a);
        gpu.matmul(Product { added: x.slice(), batch: n, ..product });
        std::mem::swap(&mut x, &mut next);
    }
    x
}
