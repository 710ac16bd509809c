//! y = x wᵀ for the few rows of a decode step on a GPU, together with the ops before and after it in a transformer.
//!
//! With few rows, a product takes as long as reading its weights: 39 MB a layer of a d20, 9.4 µs at 4.2 TB/s. So the
//! weights are read once, 16 bytes at a time and as early as possible, and the norm before and the activation or sum
//! after the product need no further pass. A row's result does not depend on the other rows: each is a column of its
//! own in every mma, summed in the same order for any number of rows up to FEW. Beyond that cuBLASLt is faster, and it
//! sums in another order.

use super::linear_softcap_cross_entropy::SOFTCAP;
use super::rms_norm;
use crate::cuda::{Cuda, sources};
use crate::gpu::{Gpu, Operand, Output, Product, blocks};
use crate::{Device, Dtype, Tensor};

/// The most rows that the kernel here is used for. A step of a d20 with 32 rows takes 1,530 µs (one H200) with
/// cuBLASLt's products, 1,680 with four times eight rows here, 1,750 with two blocks of sixteen side by side, and as
/// long with cuBLASLt's search of algorithms for these, too.
const FEW: usize = 16;
/// From this number of columns on, sixteen warps share them instead of eight, since blocks are few where columns are
/// many.
const LONG: usize = 4_096;

/// The operation applied to a sum before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    Plain,
    /// max(sum, 0)²
    ReluSquared,
    /// y + sum
    Add,
    /// 15 · tanh(sum / 15), in float32
    Softcap,
}

/// Writes the first `rows` rows of y (.., N) = epilogue(x (.., K) · w (N, K)ᵀ). `norm` is a scratch tensor of the shape
/// of x and eps; if given, RMSNorm is applied to x first.
#[track_caller]
pub fn decode_linear(
    y: &mut Tensor,
    x: &Tensor,
    w: &Tensor,
    rows: usize,
    norm: Option<(&mut Tensor, f32)>,
    epilogue: Epilogue,
) {
    let Device::Gpu(gpu) = x.device() else { panic!("decode_linear is a GPU's") };
    let (n, k) = (w.rows(), w.cols());
    let shapes = (y.shape().to_vec(), x.shape().to_vec(), w.shape().to_vec());
    assert!(y.cols() == n && x.cols() == k && rows <= y.rows().min(x.rows()), "decode_linear: {shapes:?}");
    assert!(k.is_multiple_of(32), "decode_linear: {k} columns are not a multiple of 32");
    let dtype = if epilogue == Epilogue::Softcap { Dtype::F32 } else { Dtype::Bf16 };
    assert_eq!(y.dtype(), dtype, "decode_linear: the type of y");
    if rows <= FEW {
        few(&gpu, y, x, w, rows, norm.map(|(_, eps)| eps), epilogue)
    } else {
        many(&gpu, y, x, w, rows, norm, epilogue)
    }
}

fn few(gpu: &Gpu, y: &mut Tensor, x: &Tensor, w: &Tensor, rows: usize, eps: Option<f32>, epilogue: Epilogue) {
    let (n, k) = (w.rows(), w.cols());
    let batch = rows.div_ceil(8).next_power_of_two();
    let warps = if k >= LONG { 16 } else { 8 };
    // With more rows, reading x costs as much as reading w; two tiles of w then share each read, if that leaves enough
    // blocks.
    let tiles =
        if batch > 1 && warps == 8 && n >= 16 * Cuda::of(gpu).multiprocessors() as usize { 2 } else { 1 };
    let kernel = gpu.kernel(sources::decode_linear, &format!("decode_linear_{batch}_{tiles}_{}", warps * 32));
    let launch =
        kernel.slice(y.slice_mut()).slice(x.bf16_slice()).slice(w.bf16_slice()).u32(rows).u32(n).u32(k);
    let launch =
        launch.u32(usize::from(eps.is_some())).u32(epilogue as usize).f32(eps.unwrap_or(0.0)).overlapping();
    // Shared memory holds the kernel's AHEAD pieces of w, 16 bytes a lane for each eight rows, and later the warps'
    // sums.
    let (ahead, sums) = (warps * 5 / 8, 4 * warps * batch * 8 * (16 * tiles + 4 + 1));
    let shared = sums.max(ahead * 2 * tiles * warps * 32 * 16);
    // SAFETY: x and y have `rows` rows and w those of the shapes; a block for each 16 · tiles rows of w, and shared
    // memory for what the block asks for ahead and for its sums.
    unsafe { launch.run([n.div_ceil(16 * tiles), 1, 1], 32 * warps as u32, shared as u32) }
}

fn many(
    gpu: &Gpu,
    y: &mut Tensor,
    x: &Tensor,
    w: &Tensor,
    rows: usize,
    norm: Option<(&mut Tensor, f32)>,
    epilogue: Epilogue,
) {
    let (n, k) = (w.rows(), w.cols());
    let x = match norm {
        None => x,
        Some((normed, eps)) => {
            rms_norm::cuda::forward_into(gpu, normed, x, None, rows, eps);
            &*normed
        }
    };
    let out = Output::new(y.slice_mut(), n);
    let (a, b) = (Operand::new(x.bf16_slice(), k), Operand::new(w.bf16_slice(), k).t());
    gpu.matmul(Product::new([rows, n, k], a, b, out, if epilogue == Epilogue::Add { 1.0 } else { 0.0 }));
    let (y, len) = (y.slice_mut(), rows * n);
    match epilogue {
        Epilogue::Plain | Epilogue::Add => {}
        Epilogue::ReluSquared => {
            let launch = gpu.kernel(sources::mlp, "relu_squared_forward").slice(y).slice(y).u64(len);
            // SAFETY: y holds `len` values, each changed in place by one thread.
            unsafe { launch.run(blocks(len / 8, 256), 256, 0) }
        }
        Epilogue::Softcap => {
            let launch =
                gpu.kernel(sources::linear_softcap_cross_entropy, "softcap").slice(y).f32(SOFTCAP).u64(len);
            // SAFETY: y holds `len` values, each changed in place by one thread.
            unsafe { launch.run(blocks(len, 1_024), 512, 0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;
    use crate::ops::EPS;
    use crate::testing::{BF16_TOLERANCE, assert_relative, gpu, randn};

    fn on_gpu(x: &Tensor, device: &Device) -> Tensor {
        x.to_device(device).to_activation()
    }

    /// Tests widths that are no multiple of a tile or of a warp's share, and rows around every kernel's limits.
    #[test]
    fn products_of_few_rows_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        for (n, k) in [(33, 64), (96, 1_280), (4_500, 160), (64, 5_120)] {
            let w = randn(&[n, k], 1);
            let w = Tensor::new(w.data().iter().map(|w| w / (k as f32).sqrt()).collect(), &[n, k]);
            let w = on_gpu(&w, &device);
            for rows in [1, 2, 7, 8, 9, 16, 17, 32, 64] {
                if rows > FEW && n % 8 != 0 {
                    continue; // cuBLASLt wants rows at multiples of 16 bytes
                }
                let (x, y) = (on_gpu(&randn(&[rows, k], 2), &device), on_gpu(&randn(&[rows, n], 3), &device));
                let [x_cpu, w_cpu, y_cpu] = [&x, &w, &y].map(|t| t.to_device(&Device::Cpu));
                for (norm, epilogue) in [
                    (None, Epilogue::Plain),
                    (Some(EPS), Epilogue::Plain),
                    (Some(0.5), Epilogue::ReluSquared),
                    (None, Epilogue::Add),
                    (Some(0.5), Epilogue::Softcap),
                ] {
                    if norm.is_some() && k > 4_096 {
                        continue; // no model norms what is this wide
                    }
                    let normed = norm.map_or_else(|| x_cpu.clone(), |eps| Tape::off().rms_norm(&x_cpu, eps));
                    let mut want = Tape::off().linear(&normed, &w_cpu);
                    for (sum, y) in want.data_mut().iter_mut().zip(y_cpu.data()) {
                        *sum = match epilogue {
                            Epilogue::Plain => *sum,
                            Epilogue::ReluSquared => sum.max(0.0) * sum.max(0.0),
                            Epilogue::Add => y + *sum,
                            Epilogue::Softcap => 15.0 * (*sum / 15.0).tanh(),
                        };
                    }
                    let mut got = match epilogue {
                        Epilogue::Softcap => Tensor::zeros(&[rows, n]).to_device(&device),
                        _ => y.clone(),
                    };
                    let mut scratch = x.clone();
                    decode_linear(&mut got, &x, &w, rows, norm.map(|eps| (&mut scratch, eps)), epilogue);
                    let name = format!("{rows} x {n} x {k}, eps {norm:?}, {epilogue:?}");
                    assert_relative(&name, &got.host(), want.data(), BF16_TOLERANCE);
                }
            }
        }
    }

    /// The kernels for 8 and 16 rows sum in the same order, so a row has the same bits in both.
    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let Some(device) = gpu() else { return };
        let (n, k) = (256, 1_280);
        let (x, w) = (on_gpu(&randn(&[FEW, k], 0), &device), on_gpu(&randn(&[n, k], 1), &device));
        let first_row = |rows: usize| {
            let mut y = on_gpu(&Tensor::zeros(&[rows, n]), &device);
            let mut scratch = x.clone();
            decode_linear(&mut y, &x, &w, rows, Some((&mut scratch, EPS)), Epilogue::Plain);
            y.host()[..n].to_vec()
        };
        let alone = first_row(1);
        assert!([2, 8, 12, FEW].into_iter().all(|rows| first_row(rows) == alone));
    }
}
