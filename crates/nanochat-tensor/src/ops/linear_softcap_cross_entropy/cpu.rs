//! Since |c| ≤ 15, p = e^(c − 15) needs no maximum, and g = p · (1 − (c / 15)²) is the gradient dz of a row except for
//! the factor weight / Σ p and the one-hot term. One pass over the logits makes g; the factor is applied to the rows of
//! x before dw and to those of dx, and the one-hot terms are added separately.

use rayon::prelude::*;

use super::LossOutput;
use super::segments::{
    CHUNK_LOGITS, CHUNK_ROWS, RowSums, SEGMENTS, Segment, cap, finish, joined, put_rows, rows_of, softcap,
    unscaled_gradient,
};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::reuse::{self, Values};
use crate::simd::vectorized;
use crate::{Dtype, Tensor};

/// The number of columns that one thread multiplies at a time, without waiting for the others: a d4 trains 1,021 tokens
/// a second (T 1,024, V 65,536), where products of 64 rows that all threads share gave 759. 256 and 1,024 columns are
/// no faster.
const COLS: usize = 512;

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
) -> LossOutput {
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
            .map(|(i, (g, w))| segment_of(g, x_mat, w, i * segment, &targets, gradients))
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
    LossOutput::new(nll, weights, gradients)
}

/// x (rows, C), w (columns, C) from column `first` of the vocabulary on; fills g (columns / COLS, rows, COLS).
fn segment_of(g: &mut [f32], x: Mat, w: &[f32], first: usize, targets: &[usize], gradients: bool) -> Segment {
    let (rows, c) = (targets.len(), x.cols());
    let mut found = vec![RowSums::default(); rows];
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
