use rayon::prelude::*;

use crate::simd::{dot, old, vectorized};
use crate::{Tensor, reuse};

/// The number of rows that one thread takes at a time.
const ROWS: usize = 64;

/// x (.., C) -> y (.., C) and r (rows)
pub fn forward(x: &Tensor, eps: f32) -> (Tensor, Tensor) {
    let c = x.cols();
    let (mut y, mut r) = (reuse::any(x.len()), vec![0.0; x.rows()]);
    let work = y.par_chunks_mut(ROWS * c).zip(x.data().par_chunks(ROWS * c)).zip(r.par_chunks_mut(ROWS));
    work.for_each(|((y, x), r)| {
        vectorized!({
            for ((y, x), r) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(r) {
                *r = reciprocal_rms(x, eps);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * *r);
            }
        })
    });
    let rows = [r.len()];
    (Tensor::new(y, x.shape()), Tensor::new(r, &rows))
}

/// dx = r · (dy − y · mean(dy · y)) + beta · dx
pub fn backward(dx: &mut Tensor, beta: f32, dy: &Tensor, y: &Tensor, r: &Tensor) {
    let c = y.cols();
    let inputs =
        dy.data().par_chunks(ROWS * c).zip(y.data().par_chunks(ROWS * c)).zip(r.data().par_chunks(ROWS));
    dx.make_mut().par_chunks_mut(ROWS * c).zip(inputs).for_each(|(dx, ((dy, y), r))| {
        vectorized!({
            let rows = dy.chunks_exact(c).zip(y.chunks_exact(c)).zip(r);
            for (dx, ((dy, y), r)) in dx.chunks_exact_mut(c).zip(rows) {
                add_row_gradient(dx, beta, dy, y, *r);
            }
        })
    });
}

#[inline(always)]
pub(crate) fn reciprocal_rms(x: &[f32], eps: f32) -> f32 {
    (dot(x, x) / x.len() as f32 + eps).sqrt().recip()
}

/// Computes the backward formula for one row and adds beta · dx.
#[inline(always)]
fn add_row_gradient(dx: &mut [f32], beta: f32, dy: &[f32], y: &[f32], r: f32) {
    let mean = dot(dy, y) / y.len() as f32;
    for (dx, (dy, y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
        *dx = old(*dx, beta) + r * (dy - y * mean);
    }
}
