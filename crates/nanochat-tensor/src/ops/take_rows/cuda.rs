use super::RowIndex;
use crate::Tensor;
use crate::cuda::sources;
use crate::gpu::{Gpu, blocks};

const THREADS: u32 = 256;

#[track_caller]
pub fn take_rows(gpu: &Gpu, x: &Tensor, index: &RowIndex) -> Tensor {
    let (c, bytes) = (x.cols(), x.cols() * x.dtype().bytes());
    assert!(bytes.is_multiple_of(16), "take_rows on CUDA: rows of {bytes} bytes are not a multiple of 16");
    let y = Tensor::unwritten(gpu, x.dtype(), &[index.len(), c]);
    let rows = index.on_gpu.get_or_init(|| gpu.upload(&index.rows));
    let vectors = index.len() * bytes / 16;
    let launch =
        gpu.kernel(sources::take_rows, "take_rows").slice(y.slice()).slice(x.slice()).slice(rows.slice());
    // SAFETY: every index is a row of x, and y has a row for each; a thread for each 16 bytes of y.
    unsafe { launch.u32(bytes / 16).u64(vectors).run(blocks(vectors, THREADS), THREADS, 0) }
    y
}
