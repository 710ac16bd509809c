use rayon::prelude::*;

use super::RotaryTable;
use crate::ops::rms_norm::cpu::reciprocal_rms;
use crate::simd::{dot, old, vectorized};
use crate::{Tensor, reuse};

/// The number of tokens that one thread takes at a time.
const TOKENS: usize = 64;

/// x (B, T, H, D) -> y (B, T, H, D) and r (B·T·H)
pub fn forward(x: &Tensor, table: &RotaryTable, positions: &[usize], eps: f32) -> (Tensor, Tensor) {
    let (h, d) = (x.shape()[2], x.shape()[3]);
    let (mut y, mut r) = (reuse::any(x.len()), vec![0.0; x.rows()]);
    let inputs = x.data().par_chunks(TOKENS * h * d).zip(positions.par_chunks(TOKENS));
    let work = y.par_chunks_mut(TOKENS * h * d).zip(r.par_chunks_mut(TOKENS * h)).zip(inputs);
    work.for_each(|((y, r), (x, positions))| {
        vectorized!({
            for (n, ((y, x), r)) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(r).enumerate() {
                rotate(y, x, table.at(positions[n / h]));
                *r = reciprocal_rms(y, eps);
                y.iter_mut().for_each(|y| *y *= *r);
            }
        })
    });
    let rows = [r.len()];
    (Tensor::new(y, x.shape()), Tensor::new(r, &rows))
}

/// dx = r · (dy − y · mean(dy · y)), rotated back, + beta · dx
pub fn backward(
    dx: &mut Tensor,
    beta: f32,
    dy: &Tensor,
    (y, r): (&Tensor, &Tensor),
    table: &RotaryTable,
    positions: &[usize],
) {
    let (h, d) = (y.shape()[2], y.shape()[3]);
    let tensors = dy.data().par_chunks(TOKENS * h * d).zip(y.data().par_chunks(TOKENS * h * d));
    let inputs = tensors.zip(r.data().par_chunks(TOKENS * h)).zip(positions.par_chunks(TOKENS));
    dx.make_mut().par_chunks_mut(TOKENS * h * d).zip(inputs).for_each(|(dx, (((dy, y), r), positions))| {
        vectorized!({
            let heads = dy.chunks_exact(d).zip(y.chunks_exact(d)).zip(r);
            for (n, (dx, ((dy, y), r))) in dx.chunks_exact_mut(d).zip(heads).enumerate() {
                add_head_gradient(dx, beta, dy, y, *r, table.at(positions[n / h]));
            }
        })
    });
}

#[inline(always)]
fn rotate(y: &mut [f32], x: &[f32], (cos, sin): (&[f32], &[f32])) {
    let half = cos.len();
    let (y1, y2) = y.split_at_mut(half);
    let (x1, x2) = x.split_at(half);
    for i in 0..half {
        y1[i] = x1[i] * cos[i] + x2[i] * sin[i];
        y2[i] = x2[i] * cos[i] - x1[i] * sin[i];
    }
}

#[inline(always)]
fn add_head_gradient(dx: &mut [f32], beta: f32, dy: &[f32], y: &[f32], r: f32, (cos, sin): (&[f32], &[f32])) {
    let half = cos.len();
    let mean = dot(dy, y) / y.len() as f32;
    let (dx1, dx2) = dx.split_at_mut(half);
    for i in 0..half {
        let dz1 = r * (dy[i] - y[i] * mean);
        let dz2 = r * (dy[half + i] - y[half + i] * mean);
        dx1[i] = old(dx1[i], beta) + dz1 * cos[i] - dz2 * sin[i];
        dx2[i] = old(dx2[i], beta) + dz2 * cos[i] + dz1 * sin[i];
    }
}
