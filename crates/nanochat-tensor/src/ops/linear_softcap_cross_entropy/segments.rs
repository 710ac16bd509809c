//! The parts that the loss on the CPU in f32 and in bf16 share: segments of the vocabulary, their sums, and the
//! softcap.

use rayon::prelude::*;

use super::SOFTCAP;
use crate::Tensor;
use crate::reuse::Values;
use crate::simd::{self, CHUNK, vectorized};

/// The number of logits held at a time: 32 Mi values (128 MiB in f32, 64 in bf16), 512 rows of a vocabulary of 65,536.
pub const CHUNK_LOGITS: usize = 32 << 20;

/// The most rows in a chunk, since every segment has a dx for each.
pub const CHUNK_ROWS: usize = 1_024;

/// The most segments of the vocabulary: as many threads have work, and sums over segments are in a fixed order.
pub const SEGMENTS: usize = 8;

/// The sums over one row of logits, or over a part of it.
#[derive(Clone, Copy, Default)]
pub struct RowSums {
    /// Σ p
    pub total: f32,
    /// The target's c; 0 if it is in another part.
    pub capped: f32,
}

impl RowSums {
    pub fn and(self, other: RowSums) -> RowSums {
        RowSums { total: self.total + other.total, capped: self.capped + other.capped }
    }

    pub fn nll(self) -> f32 {
        SOFTCAP + self.total.ln() - self.capped
    }
}

/// The results of one segment of the vocabulary for the rows of a chunk.
pub struct Segment {
    pub found: Vec<RowSums>,
    /// g · w (rows, C)
    pub dx: Values,
}

/// Returns the sums over all segments: those of each row, and dx (rows, C), empty if gradients are not wanted.
pub fn joined(segments: &[Segment], c: usize) -> (Vec<RowSums>, Values) {
    let (rows, len) = (segments[0].found.len(), segments[0].dx.len());
    let all = |r: usize| segments.iter().map(|s| s.found[r]).fold(RowSums::default(), RowSums::and);
    let mut dx = Values::any(len);
    simd::par_rows(&mut dx, c, |r, dx| {
        dx.copy_from_slice(&segments[0].dx[r * c..][..c]);
        segments[1..].iter().for_each(|s| simd::axpy(dx, 1.0, &s.dx[r * c..][..c]));
    });
    ((0..rows).map(all).collect(), dx)
}

/// Returns the given rows of x (n, C), one after the other.
pub fn rows_of(x: &Tensor, rows: &[usize]) -> Values {
    let (c, mut some) = (x.cols(), Values::any(rows.len() * x.cols()));
    simd::par_rows(&mut some, c, |r, row| row.copy_from_slice(&x.data()[rows[r] * c..][..c]));
    some
}

/// Copies `some`, one row after the other, into the given rows of dx. `rows` must be ascending.
pub fn put_rows(dx: &mut [f32], rows: &[usize], some: &[f32], c: usize) {
    let first = rows[0];
    simd::par_rows(&mut dx[first * c..(rows[rows.len() - 1] + 1) * c], c, |n, row| {
        if let Ok(r) = rows.binary_search(&(first + n)) {
            row.copy_from_slice(&some[r * c..][..c]);
        }
    });
}

/// Multiplies the rows of dx and x by their factors, which makes x ready for dw, and adds the one-hot terms to dx and
/// dw.
pub fn finish(
    rows: &[usize],
    targets: &[usize],
    weights: &[f32],
    found: &[RowSums],
    lm_head: &Tensor,
    nll: &mut [f32],
    dw: &mut [f32],
    dx_rows: &mut [f32],
    x_rows: &mut [f32],
) {
    let c = lm_head.cols();
    let one_hot = |r: usize| -> f32 { weights[rows[r]] * slope(found[r].capped) };
    // One thread adds the rows in order, so that the sum is always the same.
    for (r, x) in x_rows.chunks_exact(c).enumerate() {
        nll[rows[r]] = found[r].nll();
        vectorized!(simd::axpy(&mut dw[targets[r] * c..][..c], -one_hot(r), x));
    }
    dx_rows.par_chunks_exact_mut(c).zip(x_rows.par_chunks_exact_mut(c)).enumerate().for_each(
        |(r, (dx, x))| {
            let factor = weights[rows[r]] / found[r].total;
            vectorized!({
                x.iter_mut().for_each(|x| *x *= factor);
                dx.iter_mut().for_each(|dx| *dx *= factor);
                simd::axpy(dx, -one_hot(r), &lm_head.data()[targets[r] * c..][..c]);
            });
        },
    );
}

/// Turns logits into g in place; returns Σ p. With u = 1 / (e^(2z/15) + 1), tanh(z/15) is 1 − 2u, so p = e^(−30u) and
/// the slope of the softcap is 4u(1 − u). The loop writes two arrays so that the compiler vectorizes it (1.3 ns a value
/// on Zen 4, against 4.4 without); with the sum inside it stayed scalar.
#[inline(always)]
pub fn unscaled_gradient(z: &mut [f32]) -> f32 {
    let (mut total, mut p) = (0.0, [0.0; 256]);
    for z in z.chunks_mut(256) {
        let p = &mut p[..z.len()];
        z.iter_mut().zip(p.iter_mut()).for_each(|(z, p)| {
            let u = 1.0 / (simd::exp(*z * (2.0 / SOFTCAP)) + 1.0);
            *p = simd::exp_in_range(-2.0 * SOFTCAP * u);
            *z = *p * (4.0 * u * (1.0 - u));
        });
        total += simd::sum(p);
    }
    total
}

/// 1 − (c / 15)²
fn slope(capped: f32) -> f32 {
    1.0 - (capped / SOFTCAP) * (capped / SOFTCAP)
}

#[inline(always)]
pub fn cap(z: f32) -> f32 {
    SOFTCAP * simd::tanh(z * (1.0 / SOFTCAP))
}

pub fn softcap(logits: &mut [f32]) {
    logits.par_chunks_mut(CHUNK).for_each(|logits| vectorized!(logits.iter_mut().for_each(|z| *z = cap(*z))));
}
