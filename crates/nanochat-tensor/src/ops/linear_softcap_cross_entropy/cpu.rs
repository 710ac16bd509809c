use rayon::prelude::*;

use super::{Output, SOFTCAP};
use crate::Tensor;
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::simd::{self, CHUNK, vectorized};

/// Logits held at a time: 4 Mi values (16 MiB), 64 rows of a vocabulary of 65,536.
const CHUNK_LOGITS: usize = 4 << 20;

pub fn softcap_logits(logits: &mut Tensor) {
    softcap(logits.data_mut());
}

pub fn forward(x: &Tensor, lm_head: &Tensor, targets: &[u32], weights: &[f32], gradients: bool) -> Output {
    let (n, c, v) = (x.rows(), x.cols(), lm_head.rows());
    let w = Mat::new(lm_head.data(), v, c);
    let rows: Vec<usize> = (0..n).filter(|&n| weights[n] != 0.0).collect();
    let mut nll = vec![0.0; n];
    let mut dx = vec![0.0; if gradients { n * c } else { 0 }];
    let mut dw = vec![0.0; if gradients { v * c } else { 0 }];
    let chunk_rows = (CHUNK_LOGITS / v).clamp(16, 1_024);
    let mut logits = vec![0.0; chunk_rows.min(rows.len()) * v];
    for rows in rows.chunks(chunk_rows) {
        let x_rows: Vec<f32> = rows.iter().flat_map(|&n| &x.data()[n * c..][..c]).copied().collect();
        let (x_rows, logits) = (Mat::new(&x_rows, rows.len(), c), &mut logits[..rows.len() * v]);
        gemm(MatMut::new(logits, rows.len(), v), 1.0, x_rows, w.t(), 0.0, Threads::All);
        let losses: Vec<f32> = logits
            .par_chunks_mut(v)
            .zip(rows)
            .map(|(logits, &n)| {
                vectorized(|| row_loss(logits, targets[n] as usize, gradients.then_some(weights[n])))
            })
            .collect();
        rows.iter().zip(losses).for_each(|(&n, loss)| nll[n] = loss);
        if gradients {
            let dz = Mat::new(logits, rows.len(), v);
            gemm(MatMut::new(&mut dw, v, c), 1.0, dz.t(), x_rows, 1.0, Threads::All);
            let mut dx_rows = vec![0.0; rows.len() * c];
            gemm(MatMut::new(&mut dx_rows, rows.len(), c), 1.0, dz, w, 0.0, Threads::All);
            rows.iter()
                .zip(dx_rows.chunks_exact(c))
                .for_each(|(&n, row)| dx[n * c..][..c].copy_from_slice(row));
        }
    }
    let loss = nll.iter().zip(weights).map(|(&nll, &w)| f64::from(nll) * f64::from(w)).sum::<f64>() as f32;
    let gradients = gradients.then(|| (Tensor::new(dx, x.shape()), Tensor::new(dw, lm_head.shape())));
    Output { loss: Tensor::new(vec![loss], &[1]), nll: Tensor::new(nll, &[n]), gradients }
}

/// The nll of one row of logits (V). With a weight, the row is turned into its gradient dz.
#[inline(always)]
fn row_loss(logits: &mut [f32], target: usize, weight: Option<f32>) -> f32 {
    // c = 15·tanh, so |c| ≤ 15 and e^(c − 15) can neither overflow nor underflow: no maximum needed.
    cap(logits);
    let capped = logits[target];
    let Some(weight) = weight else {
        logits.iter_mut().for_each(|c| *c = simd::exp(*c - SOFTCAP));
        return SOFTCAP + simd::sum(logits).ln() - capped;
    };
    let mut total = 0.0;
    let mut exps = [0.0; 1_024];
    for block in logits.chunks(exps.len()) {
        let exps = &mut exps[..block.len()];
        exps.iter_mut().zip(block).for_each(|(e, c)| *e = simd::exp(c - SOFTCAP));
        total += simd::sum(exps);
    }
    let lse = SOFTCAP + total.ln();
    let slope = |c: f32| 1.0 - (c / SOFTCAP) * (c / SOFTCAP);
    logits.iter_mut().for_each(|c| *c = weight * simd::exp(*c - lse) * slope(*c));
    logits[target] -= weight * slope(capped);
    lse - capped
}

#[inline(always)]
fn cap(logits: &mut [f32]) {
    logits.iter_mut().for_each(|z| *z = SOFTCAP * simd::tanh(*z * (1.0 / SOFTCAP)));
}

pub fn softcap(logits: &mut [f32]) {
    logits.par_chunks_mut(CHUNK).for_each(|logits| vectorized(|| cap(logits)));
}
