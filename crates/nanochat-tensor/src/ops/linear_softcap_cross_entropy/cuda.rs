use super::{LossOutput, SOFTCAP};
use crate::cuda::sources;
use crate::gpu::{self, Gpu, Operand, Product, blocks};
use crate::{Dtype, Tensor};

/// The number of rows of logits that exist at a time: 512 MiB in bf16 for a vocabulary of 65,536, and products large
/// enough for full speed.
pub const CHUNK_ROWS: usize = 4_096;
const THREADS: u32 = 512;

pub fn softcap_logits(gpu: &Gpu, logits: &mut Tensor) {
    let launch =
        gpu.kernel(sources::linear_softcap_cross_entropy, "softcap").slice(logits.slice_mut()).f32(SOFTCAP);
    // SAFETY: float32 values; the kernel stops after the last.
    unsafe { launch.u64(logits.len()).run(blocks(logits.len(), 2 * THREADS), 2 * THREADS, 0) }
}

pub fn forward(
    gpu: &Gpu,
    x: &Tensor,
    lm_head: &Tensor,
    targets: &[u32],
    weights: &[f32],
    gradients: bool,
) -> LossOutput {
    let (n, c, v) = (x.rows(), x.cols(), lm_head.rows());
    // Rows of logits begin at multiples of 16 bytes for any vocabulary size.
    let ld = v.next_multiple_of(8);
    let chunk = CHUNK_ROWS.min(n);
    let nll = Tensor::unwritten(gpu, Dtype::F32, &[n]);
    let logits = gpu.alloc(chunk * ld, Dtype::Bf16);
    let targets = gpu.upload(targets);
    let weights = gpu.upload(weights);
    let grads = gradients.then(|| {
        let (dx, dw) = (Dtype::Bf16, Dtype::F32);
        (Tensor::unwritten(gpu, dx, x.shape()), Tensor::unwritten(gpu, dw, lm_head.shape()))
    });
    let w = Operand::new(lm_head.bf16_slice(), c);
    for start in (0..n).step_by(chunk.max(1)) {
        let rows = chunk.min(n - start);
        let x_rows = Operand::new(x.bf16_slice().from(start * c), c);
        let z = gpu::Output::new(logits.slice(), ld);
        gpu.matmul(Product::new([rows, v, c], x_rows, w.t(), z, 0.0));
        let kernel = gpu.kernel(sources::linear_softcap_cross_entropy, "softcap_cross_entropy");
        let launch = kernel
            .slice(logits.slice())
            .slice(nll.slice().from(start))
            .slice(targets.slice().from(start))
            .slice(weights.slice().from(start));
        let launch = launch.u32(v).u32(ld).f32(SOFTCAP).u32(usize::from(gradients));
        // SAFETY: a block for each of `rows` rows of logits, targets, weights and nll; targets are below v.
        unsafe { launch.run([rows, 1, 1], THREADS, 0) }
        if let Some((dx, dw)) = &grads {
            let dz = Operand::new(logits.slice(), ld);
            let out = gpu::Output::new(dw.slice(), c);
            gpu.matmul(Product::new([v, c, rows], dz.t(), x_rows, out, if start > 0 { 1.0 } else { 0.0 }));
            let out = gpu::Output::new(dx.slice().from(start * c), c);
            gpu.matmul(Product::new([rows, c, v], dz, w, out, 0.0));
        }
    }
    let loss = Tensor::unwritten(gpu, Dtype::F32, &[1]);
    let kernel = gpu.kernel(sources::linear_softcap_cross_entropy, "weighted_sum");
    let launch = kernel.slice(loss.slice()).slice(nll.slice()).slice(weights.slice()).u32(n);
    // SAFETY: one block over n values of each.
    unsafe { launch.run([1, 1, 1], 1_024, 0) }
    LossOutput { loss, nll, gradients: grads }
}
