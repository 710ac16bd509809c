//! |c| ≤ 15, so p = e^(c − 15) needs no maximum, and g = p · (1 − (c / 15)²) is the gradient dz of a row but for the factor
//! weight / Σ p and the one-hot term. One pass over the logits makes g; the factor goes into the rows of x before dw and
//! into those of dx, and the one-hot terms are added apart.

use rayon::prelude::*;

use super::{Output, SOFTCAP};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::reuse::{self, Values};
use crate::simd::{self, CHUNK, vectorized};
use crate::{Dtype, Tensor};

/// Logits held at a time: 32 Mi values (128 MiB), 512 rows of a vocabulary of 65,536.
const CHUNK_LOGITS: usize = 32 << 20;

/// Most rows in a chunk: every segment has a dx for each.
const CHUNK_ROWS: usize = 1_024;

/// Parts of the vocabulary, at most: as many threads find work, and sums over parts are in a fixed order.
const SEGMENTS: usize = 8;

/// Columns that one thread multiplies at a time, without waiting for the others: a d4 trains 1,021 tokens a second (T 1,024,
/// V 65,536), where products of 64 rows that all threads share gave 759. 256 and 1,024 columns are no faster.
const COLS: usize = 512;

/// Of one row of logits, or of a part of it.
#[derive(Clone, Copy, Default)]
pub struct Found {
    /// Σ p
    pub total: f32,
    /// The target's c; 0 where it is in another part.
    pub capped: f32,
}

impl Found {
    pub fn and(self, other: Found) -> Found {
        Found { total: self.total + other.total, capped: self.capped + other.capped }
    }

    fn nll(self) -> f32 {
        SOFTCAP + self.total.ln() - self.capped
    }
}

pub fn softcap_logits(logits: &mut Tensor) {
    softcap(logits.data_mut());
}

pub fn forward(
    x: &Tensor,
    lm_head: &Tensor,
    targets: &[u32],
    weights: &[f32],
    gradients: bool,
    products: Dtype,
) -> Output {
    match products {
        Dtype::Bf16 if gradients => return super::bf16::forward(x, lm_head, targets, weights),
        Dtype::F32 | Dtype::Bf16 => {}
        Dtype::Int8 | Dtype::U32 => products.has_no("loss"),
    }
    let (n, c, v) = (x.rows(), x.cols(), lm_head.rows());
    let rows: Vec<usize> = (0..n).filter(|&n| weights[n] != 0.0).collect();
    let mut nll = vec![0.0; n];
    let (mut dx, mut dw) = match gradients {
        true => (reuse::zeros(n * c), reuse::zeros(v * c)),
        false => Default::default(),
    };
    let segment = v.div_ceil(SEGMENTS).next_multiple_of(COLS);
    let chunk_rows = (CHUNK_LOGITS / v).clamp(16, CHUNK_ROWS);
    let mut g = Values(reuse::any(chunk_rows.min(rows.len()) * v));
    for rows in rows.chunks(chunk_rows) {
        let mut x_rows = rows_of(x, rows);
        let targets: Vec<usize> = rows.iter().map(|&n| targets[n] as usize).collect();
        let (g, x_mat) = (&mut g[..rows.len() * v], Mat::new(&x_rows, rows.len(), c));
        let segments: Vec<Segment> = g
            .par_chunks_mut(segment * rows.len())
            .zip(lm_head.data().par_chunks(segment * c))
            .enumerate()
            .map(|(i, (g, w))| Segment::new(g, x_mat, w, i * segment, &targets, gradients))
            .collect();
        let (found, mut dx_rows) = joined(&segments, c);
        if !gradients {
            rows.iter().zip(found).for_each(|(&n, found)| nll[n] = found.nll());
            continue;
        }
        finish(rows, &targets, weights, &found, lm_head, &mut nll, &mut dw, &mut dx_rows, &mut x_rows);
        put_rows(&mut dx, rows, &dx_rows, c);
        let x_rows = Mat::new(&x_rows, rows.len(), c);
        dw.par_chunks_mut(COLS * c).zip(g.par_chunks(COLS * rows.len())).for_each(|(dw, g)| {
            let cols = dw.len() / c;
            let g = Mat::new(g, rows.len(), cols);
            gemm(MatMut::new(dw, cols, c), 1.0, g.t(), x_rows, 1.0, Threads::One);
        });
    }
    let gradients = gradients.then(|| (Tensor::new(dx, x.shape()), Tensor::new(dw, lm_head.shape())));
    Output::new(nll, weights, gradients)
}

/// What a segment of the vocabulary gives to the rows of a chunk.
pub struct Segment {
    pub found: Vec<Found>,
    /// g · w (rows, C)
    pub dx: Values,
}

/// What all segments give together: dx (rows, C), empty where none was asked for.
pub fn joined(segments: &[Segment], c: usize) -> (Vec<Found>, Values) {
    let (rows, len) = (segments[0].found.len(), segments[0].dx.len());
    let all = |r: usize| segments.iter().map(|s| s.found[r]).fold(Found::default(), Found::and);
    let mut dx = Values::any(len);
    simd::par_rows(&mut dx, c, |r, dx| {
        dx.copy_from_slice(&segments[0].dx[r * c..][..c]);
        segments[1..].iter().for_each(|s| simd::axpy(dx, 1.0, &s.dx[r * c..][..c]));
    });
    ((0..rows).map(all).collect(), dx)
}

/// Some rows of x (n, C), one after the other.
pub fn rows_of(x: &Tensor, rows: &[usize]) -> Values {
    let (c, mut some) = (x.cols(), Values::any(rows.len() * x.cols()));
    simd::par_rows(&mut some, c, |r, row| row.copy_from_slice(&x.data()[rows[r] * c..][..c]));
    some
}

/// The other way: `some` into those rows of dx. `rows` go up.
pub fn put_rows(dx: &mut [f32], rows: &[usize], some: &[f32], c: usize) {
    let first = rows[0];
    simd::par_rows(&mut dx[first * c..(rows[rows.len() - 1] + 1) * c], c, |n, row| {
        if let Ok(r) = rows.binary_search(&(first + n)) {
            row.copy_from_slice(&some[r * c..][..c]);
        }
    });
}

impl Segment {
    /// x (rows, C), w (columns, C), whose first is column `first` of the vocabulary; fills g (columns / COLS, rows, COLS).
    fn new(g: &mut [f32], x: Mat, w: &[f32], first: usize, targets: &[usize], gradients: bool) -> Segment {
        let (rows, c) = (targets.len(), x.cols());
        let mut found = vec![Found::default(); rows];
        let mut dx = Values(reuse::zeros(if gradients { rows * c } else { 0 }));
        for (i, (g, w)) in g.chunks_mut(COLS * rows).zip(w.chunks(COLS * c)).enumerate() {
            let (first, cols) = (first + i * COLS, w.len() / c);
            let w = Mat::new(w, cols, c);
            gemm(MatMut::new(g, rows, cols), 1.0, x, w.t(), 0.0, Threads::One);
            for ((z, found), target) in g.chunks_exact_mut(cols).zip(&mut found).zip(targets) {
                if let Some(at) = target.checked_sub(first).filter(|&at| at < cols) {
                    found.capped = cap(z[at]);
                }
                found.total += vectorized!(unscaled_gradient(z));
            }
            if gradients {
                let g = Mat::new(g, rows, cols);
                gemm(MatMut::new(&mut dx, rows, c), 1.0, g, w, 1.0, Threads::One);
            }
        }
        Segment { found, dx }
    }
}

/// Puts the factor of each row into dx and x, which is then ready for dw, and adds the one-hot terms to dx and dw.
pub fn finish(
    rows: &[usize],
    targets: &[usize],
    weights: &[f32],
    found: &[Found],
    lm_head: &Tensor,
    nll: &mut [f32],
    dw: &mut [f32],
    dx_rows: &mut [f32],
    x_rows: &mut [f32],
) {
    let c = lm_head.cols();
    let one_hot = |r: usize| -> f32 { weights[rows[r]] * slope(found[r].capped) };
    // One thread, in the order of the rows: always the same sum.
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

/// Logits to g in place; returns Σ p. With u = 1 / (e^(2z/15) + 1), tanh(z/15) is 1 − 2u, so p = e^(−30u) and the slope of the
/// softcap 4u(1 − u). The loop writes two arrays, which the compiler turns into vectors (1.3 ns a value on Zen 4, and 4.4
/// without); with the sum inside, it left it scalar.
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
