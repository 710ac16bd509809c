use crate::cuda::sources;
use crate::gpu::Gpu;
use crate::{Dtype, Tensor};

const THREADS: u32 = 128;

pub fn forward(gpu: &Gpu, ids: &[u32], wte: &Tensor) -> Tensor {
    let c = width(wte);
    let y = Tensor::unwritten(gpu, Dtype::Bf16, &[ids.len(), c]);
    let on_gpu = gpu.upload(ids);
    let launch = gpu.kernel(sources::embedding, "embedding_forward").slice(y.slice()).slice(wte.slice());
    // SAFETY: every id is a row of wte, and y has a row for each id.
    unsafe { launch.slice(on_gpu.slice()).u32(c).run([ids.len(), 1, 1], THREADS, 0) }
    y
}

/// Sorts the tokens, so that on the GPU one block adds to each row of the table: without atomics, the sum is always the
/// same.
pub fn backward(gpu: &Gpu, dwte: &mut Tensor, beta: f32, ids: &[u32], dy: &Tensor) {
    if beta == 0.0 {
        *dwte = Tensor::on_gpu(gpu.zeros(dwte.len(), Dtype::F32), dwte.shape());
    }
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&n| ids[n as usize]); // stable: the order of the tokens
    let changes = |&n: &usize| n == 0 || ids[order[n] as usize] != ids[order[n - 1] as usize];
    let starts: Vec<u32> = (0..ids.len()).filter(changes).chain([ids.len()]).map(|n| n as u32).collect();
    let [on_gpu, order, begins] = [ids, &order, &starts].map(|values| gpu.upload(values));
    let launch =
        gpu.kernel(sources::embedding, "embedding_backward").slice(dwte.slice_mut()).slice(dy.bf16_slice());
    let launch = launch.slice(on_gpu.slice()).slice(order.slice()).slice(begins.slice()).u32(width(dy));
    // SAFETY: `starts` cuts `order`, a permutation of the rows of dy, into one group for each block.
    unsafe { launch.run([starts.len() - 1, 1, 1], THREADS, 0) }
}

#[track_caller]
fn width(x: &Tensor) -> usize {
    assert!(x.cols().is_multiple_of(8), "embedding on CUDA: {} columns are not a multiple of 8", x.cols());
    x.cols()
}
