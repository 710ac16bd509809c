use rayon::prelude::*;

use crate::Tensor;
use crate::gemm::{Compute, Mat, MatMut, Threads};
use crate::ops::elementwise;
use crate::reuse;
use crate::simd::{self, dot, vectorized};

/// Up to this many rows (decoding) the weights are read once, as dot products: the product is bound
/// by memory, and packing it for gemm would read and write them twice more.
const FEW_ROWS: usize = 8;

pub fn forward(x: &Tensor, w: &Tensor, compute: Compute) -> Tensor {
    let (rows, inp, out) = (x.rows(), x.cols(), w.rows());
    if let Some(w) = w.packed() {
        return Tensor::new(w.product(x.data(), rows), &output_shape(x, w.shape()[0]));
    }
    let mut y = reuse::any(rows * out);
    if rows <= FEW_ROWS {
        few_rows(&mut y, x, w);
    } else {
        let (x, w) = (Mat::new(x.data(), rows, inp), Mat::new(w.data(), out, inp));
        compute.gemm(MatMut::new(&mut y, rows, out), 1.0, x, w.t(), 0.0, Threads::All);
    }
    Tensor::new(y, &output_shape(x, out))
}

/// residual + x wᵀ, with many rows added inside the product
pub fn forward_add(residual: &Tensor, x: &Tensor, w: &Tensor, compute: Compute) -> Tensor {
    let (rows, inp, out) = (x.rows(), x.cols(), w.rows());
    if w.packed().is_some() || rows <= FEW_ROWS {
        return elementwise::sum(residual, &forward(x, w, compute));
    }
    let mut y = reuse::any(rows * out);
    simd::par_zip(&mut y, residual.data(), |y, x| y.copy_from_slice(x));
    let (x, w) = (Mat::new(x.data(), rows, inp), Mat::new(w.data(), out, inp));
    compute.gemm(MatMut::new(&mut y, rows, out), 1.0, x, w.t(), 1.0, Threads::All);
    Tensor::new(y, residual.shape())
}

pub fn forward_f32(x: &Tensor, w: &Tensor) -> Tensor {
    forward(x, w, Compute::F32)
}

/// (.., out)
pub fn output_shape(x: &Tensor, out: usize) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("linear: x has no dimensions") = out;
    shape
}

/// y (rows, out) = x (rows, in) · w (out, in)ᵀ
fn few_rows(y: &mut [f32], x: &Tensor, w: &Tensor) {
    let (inp, out) = (x.cols(), w.rows());
    const OUTS: usize = 64;
    let columns: Vec<Vec<f32>> = w
        .data()
        .par_chunks(OUTS * inp)
        .map(|w| {
            vectorized!({
                let products = |x: &[f32]| w.chunks_exact(inp).map(|w| dot(x, w)).collect::<Vec<f32>>();
                x.data().chunks_exact(inp).flat_map(products).collect()
            })
        })
        .collect();
    for (block, products) in columns.iter().enumerate() {
        let width = products.len() / x.rows();
        for (row, products) in products.chunks_exact(width).enumerate() {
            y[row * out + block * OUTS..][..width].copy_from_slice(products);
        }
    }
}

/// dx (rows, in) = dy (rows, out) · w (out, in) + beta · dx
pub fn backward_input(dx: &mut Tensor, beta: f32, dy: &Tensor, w: &Tensor, compute: Compute) {
    let (rows, out, inp) = (dy.rows(), w.rows(), w.cols());
    let (dy, w) = (Mat::new(dy.data(), rows, out), Mat::new(w.data(), out, inp));
    compute.gemm(MatMut::new(dx.make_mut(), rows, inp), 1.0, dy, w, beta, Threads::All);
}

/// dw (out, in) = dy (rows, out)ᵀ · x (rows, in) + beta · dw
pub fn backward_weight(dw: &mut Tensor, beta: f32, dy: &Tensor, x: &Tensor, compute: Compute) {
    let (rows, out, inp) = (dy.rows(), dy.cols(), x.cols());
    let (dy, x) = (Mat::new(dy.data(), rows, out), Mat::new(x.data(), rows, inp));
    compute.gemm(MatMut::new(dw.make_mut(), out, inp), 1.0, dy.t(), x, beta, Threads::All);
}
