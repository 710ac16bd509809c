//! Attention on the CPU. A unit of work is one (batch row, key head) with the query heads that share it; inside it,
//! blocks of queries meet all the keys that they see, in three to five small matrix products.

use std::ops::Range;

use rayon::prelude::*;

use super::heads::{HeadRows, KeyHeadGradients, SavedValues, score_gradient, seen, softmax};
use super::{AttentionShape, Saved, bf16};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::reuse::Values;
use crate::simd::{self, vectorized};
use crate::{Dtype, Tensor, reuse};

/// The number of queries in a block: large enough for gemm, and small enough that the wasted upper triangle stays below
/// 6 % at T = 2,048 and that scores (64, T) stay in L2.
const BLOCK: usize = 64;

/// Returns the blocks of queries, each with the keys that at least one of them sees.
fn blocks(s: AttentionShape) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    (0..s.t).step_by(BLOCK).map(move |start| {
        let end = (start + BLOCK).min(s.t);
        (start..end, (start + 1).saturating_sub(s.window)..end)
    })
}

/// Returns y (B, T, H, D) and the log-sum-exp (B, H, T).
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, s: AttentionShape, products: Dtype) -> (Tensor, Tensor) {
    let (shape, q, k, v) = (q.shape(), q.data(), k.data(), v.data());
    let forward_head = match products {
        Dtype::F32 => forward_head,
        Dtype::Bf16 => bf16::forward_head,
        Dtype::Int8 | Dtype::U32 => products.has_no("attention"),
    };
    let heads: Vec<(Values, Vec<f32>)> =
        (0..s.b * s.h).into_par_iter().map(|n| forward_head(q, k, v, s, n / s.h, n % s.h)).collect();
    let mut y = reuse::any(s.b * s.t * s.h * s.d);
    y.par_chunks_mut(s.t * s.h * s.d).enumerate().for_each(|(b, y)| {
        for h in 0..s.h {
            let rows = heads[b * s.h + h].0.chunks_exact(s.d);
            for (y, row) in y[h * s.d..].chunks_mut(s.h * s.d).zip(rows) {
                y[..s.d].copy_from_slice(row);
            }
        }
    });
    let lse = heads.into_iter().flat_map(|(_, lse)| lse).collect();
    (Tensor::new(y, shape), Tensor::new(lse, &[s.b, s.h, s.t]))
}

/// Returns y (T, D) and the log-sum-exp (T) of one query head.
fn forward_head(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: AttentionShape,
    b: usize,
    h: usize,
) -> (Values, Vec<f32>) {
    let (query, key) = (HeadRows::of(s, b, s.h, h), HeadRows::of(s, b, s.kvh, h * s.kvh / s.h));
    let (mut y, mut lse, mut scores) = (Values::any(s.t * s.d), vec![0.0; s.t], Values::any(BLOCK * s.t));
    for (queries, keys) in blocks(s) {
        let (rows, cols) = (queries.len(), keys.len());
        let p = &mut scores[..rows * cols];
        let (q, k) = (query.rows(q, queries.clone(), s.d), key.rows(k, keys.clone(), s.d));
        gemm(MatMut::new(p, rows, cols), s.scale(), q, k.t(), 0.0, Threads::One);
        vectorized!({
            for ((row, t), lse) in
                p.chunks_exact_mut(cols).zip(queries.clone()).zip(&mut lse[queries.clone()])
            {
                *lse = softmax(row, seen(t, &keys, s.window));
            }
        });
        let y = MatMut::new(&mut y[queries.start * s.d..queries.end * s.d], rows, s.d);
        gemm(y, 1.0, Mat::new(p, rows, cols), key.rows(v, keys, s.d), 0.0, Threads::One);
    }
    (y, lse)
}

/// dy (B, T, H, D) -> dq (B, T, H, D), dk and dv (B, T, KVH, D)
pub fn backward(dy: &Tensor, saved: &Saved, s: AttentionShape, products: Dtype) -> [Tensor; 3] {
    let backward_unit = match products {
        Dtype::F32 => backward_unit,
        Dtype::Bf16 => bf16::backward_unit,
        Dtype::Int8 | Dtype::U32 => products.has_no("attention"),
    };
    let shapes = [saved.q.shape(), saved.k.shape(), saved.v.shape()];
    let [q, k, v, y, lse] = [&saved.q, &saved.k, &saved.v, &saved.y, &saved.lse].map(Tensor::data);
    let (dy, saved, group) = (dy.data(), SavedValues { q, k, v, y, lse }, s.h / s.kvh);
    let (mut dq, mut dk, mut dv) =
        (reuse::any(saved.q.len()), reuse::any(saved.k.len()), reuse::any(saved.v.len()));
    let per_row = (s.t * s.h * s.d, s.t * s.kvh * s.d);
    // Batch rows are split first; inside a row, every key head's unit returns its own gradients.
    let rows =
        dq.par_chunks_mut(per_row.0).zip(dk.par_chunks_mut(per_row.1)).zip(dv.par_chunks_mut(per_row.1));
    rows.enumerate().for_each(|(b, ((dq, dk), dv))| {
        let units: Vec<KeyHeadGradients> =
            (0..s.kvh).into_par_iter().map(|kvh| backward_unit(dy, &saved, s, b, kvh)).collect();
        for (kvh, unit) in units.iter().enumerate() {
            scatter(dk, &unit.dk, s.kvh, kvh, s.d);
            scatter(dv, &unit.dv, s.kvh, kvh, s.d);
            for (i, dq_head) in unit.dq.chunks_exact(s.t * s.d).enumerate() {
                scatter(dq, dq_head, s.h, kvh * group + i, s.d);
            }
        }
    });
    let [q, k, v] = shapes;
    [Tensor::new(dq, q), Tensor::new(dk, k), Tensor::new(dv, v)]
}

/// Copies one head (T, D) into its place in (T, heads, D).
fn scatter(into: &mut [f32], head: &[f32], heads: usize, index: usize, d: usize) {
    for (into, row) in into[index * d..].chunks_mut(heads * d).zip(head.chunks_exact(d)) {
        into[..d].copy_from_slice(row);
    }
}

fn backward_unit(
    dy: &[f32],
    saved: &SavedValues,
    s: AttentionShape,
    b: usize,
    kvh: usize,
) -> KeyHeadGradients {
    let group = s.h / s.kvh;
    let (td, key) = (s.t * s.d, HeadRows::of(s, b, s.kvh, kvh));
    let mut unit = KeyHeadGradients::new(s);
    let [mut p, mut ds] = [(); 2].map(|()| Values::any(BLOCK * s.t));
    for h in kvh * group..(kvh + 1) * group {
        let query = HeadRows::of(s, b, s.h, h);
        let dq = &mut unit.dq[(h - kvh * group) * td..][..td];
        for (queries, keys) in blocks(s) {
            let (rows, cols) = (queries.len(), keys.len());
            let (p, ds) = (&mut p[..rows * cols], &mut ds[..rows * cols]);
            let (q, dy_rows) =
                (query.rows(saved.q, queries.clone(), s.d), query.rows(dy, queries.clone(), s.d));
            let (k, v) = (key.rows(saved.k, keys.clone(), s.d), key.rows(saved.v, keys.clone(), s.d));
            gemm(MatMut::new(p, rows, cols), s.scale(), q, k.t(), 0.0, Threads::One);
            gemm(MatMut::new(ds, rows, cols), 1.0, dy_rows, v.t(), 0.0, Threads::One);
            vectorized!({
                for ((p, ds), t) in
                    p.chunks_exact_mut(cols).zip(ds.chunks_exact_mut(cols)).zip(queries.clone())
                {
                    let lse = saved.lse[(b * s.h + h) * s.t + t];
                    let delta = simd::dot(query.row(dy, t, s.d), query.row(saved.y, t, s.d));
                    score_gradient(p, ds, seen(t, &keys, s.window), lse, delta);
                }
            });
            let (p, ds) = (Mat::new(p, rows, cols), Mat::new(ds, rows, cols));
            let of_keys = keys.start * s.d..keys.end * s.d;
            let dv = MatMut::new(&mut unit.dv[of_keys.clone()], cols, s.d);
            gemm(dv, 1.0, p.t(), dy_rows, 1.0, Threads::One);
            let dk = MatMut::new(&mut unit.dk[of_keys], cols, s.d);
            gemm(dk, s.scale(), ds.t(), q, 1.0, Threads::One);
            let dq = MatMut::new(&mut dq[queries.start * s.d..queries.end * s.d], rows, s.d);
            gemm(dq, s.scale(), ds, k, 0.0, Threads::One);
        }
    }
    unit
}
