use rayon::prelude::*;

use crate::elementwise;
use crate::gemm::{Mat, MatMut, Threads};
use crate::reuse;
use crate::simd::{dot, vectorized};
use crate::{Dtype, Tensor};

/// Up to this many rows (decoding), the weights are read once, as dot products: the product is bound by memory, and
/// packing the weights for gemm would read and write them twice more.
const FEW_ROWS: usize = 8;

pub fn forward(x: &Tensor, w: &Tensor, products: Dtype) -> Tensor {
    forward_then(x, w, products, |_, _| ())
}

/// Computes x wᵀ, then calls `after(index of the first value, values)` on all rows, some at a time.
pub fn forward_then(
    x: &Tensor,
    w: &Tensor,
    products: Dtype,
    after: impl Fn(usize, &mut [f32]) + Sync,
) -> Tensor {
    let (rows, inp, out) = (x.rows(), x.cols(), w.rows());
    if let Some(w) = w.packed() {
        let mut y = w.product(x.data(), rows);
        after(0, &mut y);
        return Tensor::new(y, &output_shape(x, w.shape()[0]));
    }
    let mut y = reuse::any(rows * out);
    if rows <= FEW_ROWS {
        few_rows(&mut y, x, w);
        after(0, &mut y);
    } else {
        let (x, w) = (Mat::new(x.data(), rows, inp), Mat::new(w.data(), out, inp));
        let c = MatMut::new(&mut y, rows, out);
        products.gemm_between(c, x, w.t(), 0.0, |_, _| (), after);
    }
    Tensor::new(y, &output_shape(x, out))
}

/// Computes residual + x wᵀ; with many rows the residual is added inside the product.
pub fn forward_add(residual: &Tensor, x: &Tensor, w: &Tensor, products: Dtype) -> Tensor {
    let (rows, inp, out) = (x.rows(), x.cols(), w.rows());
    if w.packed().is_some() || rows <= FEW_ROWS {
        return elementwise::sum(residual, &forward(x, w, products));
    }
    let mut y = reuse::any(rows * out);
    let (x, w) = (Mat::new(x.data(), rows, inp), Mat::new(w.data(), out, inp));
    let copy = |first: usize, y: &mut [f32]| y.copy_from_slice(&residual.data()[first..][..y.len()]);
    products.gemm_between(MatMut::new(&mut y, rows, out), x, w.t(), 1.0, copy, |_, _| ());
    Tensor::new(y, residual.shape())
}

pub fn forward_f32(x: &Tensor, w: &Tensor) -> Tensor {
    forward(x, w, Dtype::F32)
}

/// Returns the shape (.., out) of a product.
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
pub fn backward_input(dx: &mut Tensor, beta: f32, dy: &Tensor, w: &Tensor, products: Dtype) {
    backward_input_then(dx, beta, dy, w, products, |_, _| ());
}

/// Computes `backward_input`, then calls `after(index of the first value, values)` on all rows, some at a time.
pub fn backward_input_then(
    dx: &mut Tensor,
    beta: f32,
    dy: &Tensor,
    w: &Tensor,
    products: Dtype,
    after: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (rows, out, inp) = (dy.rows(), w.rows(), w.cols());
    let (dy, w) = (Mat::new(dy.data(), rows, out), Mat::new(w.data(), out, inp));
    products.gemm_between(MatMut::new(dx.make_mut(), rows, inp), dy, w, beta, |_, _| (), after);
}

/// dw (out, in) = dy (rows, out)ᵀ · x (rows, in) + beta · dw
pub fn backward_weight(dw: &mut Tensor, beta: f32, dy: &Tensor, x: &Tensor, products: Dtype) {
    let (rows, out, inp) = (dy.rows(), dy.cols(), x.cols());
    let (dy, x) = (Mat::new(dy.data(), rows, out), Mat::new(x.data(), rows, inp));
    products.gemm(MatMut::new(dw.make_mut(), out, inp), 1.0, dy.t(), x, beta, Threads::All);
}
