use crate::cuda::sources;
use crate::gpu::{Gpu, Slice, blocks};
use crate::{Dtype, Tensor};

/// The threads of a block: four warps, each of which takes a row.
const THREADS: u32 = 128;
/// The numbers of vectors of eight values per lane of a warp that the kernels are compiled for.
const VECTORS: [usize; 4] = [2, 5, 8, 16];
/// The most values in a row; their number must be a multiple of STEP.
pub(crate) const WIDEST: usize = VECTORS[VECTORS.len() - 1] * 8 * 32;
pub(crate) const STEP: usize = 8;

/// x (.., C) -> y (.., C) and r (rows)
pub fn forward(gpu: &Gpu, x: &Tensor, eps: f32) -> (Tensor, Tensor) {
    let (rows, cols) = (x.rows(), x.cols());
    let y = Tensor::unwritten(gpu, Dtype::Bf16, x.shape());
    let r = Tensor::unwritten(gpu, Dtype::F32, &[rows]);
    let kernel = gpu.kernel(sources::rms_norm, &format!("rms_norm_forward_{}", vectors(cols)));
    let launch = kernel
        .slice(y.slice())
        .slice(r.slice())
        .slice(x.bf16_slice())
        .slice(None)
        .u32(rows)
        .u32(cols)
        .f32(eps);
    // SAFETY: x and y hold rows · cols values, r holds rows; a warp for each row.
    unsafe { launch.run(blocks(rows * 32, THREADS), THREADS, 0) }
    (y, r)
}

/// table (.., C) -> the norms of `count` of its rows (count, C), whose indices are on the GPU at `which`, all in range.
pub(crate) fn forward_rows(gpu: &Gpu, table: &Tensor, which: Slice, count: usize, eps: f32) -> Tensor {
    let mut y = Tensor::unwritten(gpu, Dtype::Bf16, &[count, table.cols()]);
    forward_into(gpu, &mut y, table, Some(which), count, eps);
    y
}

/// Does the same into the first rows of y; if `which` is None, for the first rows of the table.
pub(crate) fn forward_into(
    gpu: &Gpu,
    y: &mut Tensor,
    table: &Tensor,
    which: Option<Slice>,
    count: usize,
    eps: f32,
) {
    let cols = table.cols();
    assert!(y.cols() == cols && y.rows() >= count, "norms of {count} rows of {cols} into {:?}", y.shape());
    let kernel = gpu.kernel(sources::rms_norm, &format!("rms_norm_forward_{}", vectors(cols)));
    let launch = kernel
        .slice(y.slice_mut())
        .slice(None)
        .slice(table.bf16_slice())
        .slice(which)
        .u32(count)
        .u32(cols)
        .f32(eps);
    // SAFETY: y holds count · cols values, and every row named is one of the table's; a warp for each row.
    unsafe { launch.run(blocks(count * 32, THREADS), THREADS, 0) }
}

pub fn backward(gpu: &Gpu, dx: &mut Tensor, beta: f32, dy: &Tensor, y: &Tensor, r: &Tensor) {
    let (rows, cols) = (y.rows(), y.cols());
    let kernel = gpu.kernel(sources::rms_norm, &format!("rms_norm_backward_{}", vectors(cols)));
    let launch = kernel.slice(dx.slice_mut()).slice(dy.bf16_slice()).slice(y.bf16_slice()).slice(r.slice());
    let launch = launch.u32(rows).u32(cols).u32(usize::from(beta != 0.0));
    // SAFETY: as in forward; dx and dy have the shape of y.
    unsafe { launch.run(blocks(rows * 32, THREADS), THREADS, 0) }
}

/// Returns how many vectors of eight values each lane of a warp holds: the smallest compiled number that fits the row.
#[track_caller]
fn vectors(cols: usize) -> usize {
    let fits = |vectors: &usize| cols <= vectors * 8 * 32;
    let vectors = VECTORS.into_iter().find(fits).filter(|_| cols.is_multiple_of(STEP));
    vectors.unwrap_or_else(|| {
        panic!("rms_norm on CUDA: {cols} columns; multiples of {STEP} up to {WIDEST} work")
    })
}
