//! Attention in the same blocks as `cpu.rs` with products in bf16, for training on the CPU. Keys and values of a head
//! are packed once for all blocks of queries; scores are packed for the next products while they are in L2.

use std::ops::Range;

use super::AttentionShape;
use super::heads::{HeadRows, KeyHeadGradients, SavedValues, score_gradient, seen, softmax};
use crate::gemm::Threads;
use crate::gemm::bf16::{Left, PANEL, Right, left_len, multiply, pack_left};
use crate::gemm::pairs::{interleave, pair_up};
use crate::reuse::Values;
use crate::simd::{self, vectorized};

/// The number of queries in a block: whole tiles of a product, and few, since the upper triangle is wasted work.
const BLOCK: usize = 60;

/// Returns the blocks of queries, each with the keys that at least one of them sees, starting at a whole panel.
fn blocks(s: AttentionShape) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    (0..s.t).step_by(BLOCK).map(move |start| {
        let end = (start + BLOCK).min(s.t);
        (start..end, (start + 1).saturating_sub(s.window) / PANEL * PANEL..end)
    })
}

/// Returns y (T, D) and the log-sum-exp (T) of one query head.
pub fn forward_head(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: AttentionShape,
    b: usize,
    h: usize,
) -> (Values, Vec<f32>) {
    let (query, key) = (HeadRows::of(s, b, s.h, h), HeadRows::of(s, b, s.kvh, h * s.kvh / s.h));
    let keys_turned = Right::pack(key.rows(k, 0..s.t, s.d).t(), Threads::One); // (D, T)
    let values = Right::pack(key.rows(v, 0..s.t, s.d), Threads::One); // (T, D)
    let (d_pairs, t_pairs) = (s.d.div_ceil(2), s.t.div_ceil(2));
    let (mut y, mut lse, mut scores) = (Values::any(s.t * s.d), vec![0.0; s.t], Values::any(BLOCK * s.t));
    let (mut q_left, mut p_left) = (vec![0; left_len(BLOCK, d_pairs)], vec![0; BLOCK * t_pairs]);
    for (queries, keys) in blocks(s) {
        let (rows, cols) = (queries.len(), keys.len());
        let left = pack_left(&mut q_left, query.rows(q, queries.clone(), s.d));
        multiply(&mut scores, s.t, rows, s.scale(), left, &keys_turned, 0..d_pairs, keys.clone(), 0.0);
        vectorized!({
            let lines = scores.chunks_exact_mut(s.t).zip(p_left.chunks_exact_mut(t_pairs));
            for ((row, pairs), t) in lines.zip(queries.clone()) {
                lse[t] = softmax(&mut row[..cols], seen(t, &keys, s.window));
                pair_up(pairs, &row[..cols]);
            }
        });
        let left = Left { pairs: &p_left, row: t_pairs, pair: 1 };
        let k = keys.start / 2..keys.end.div_ceil(2);
        multiply(&mut y[queries.start * s.d..], s.d, rows, 1.0, left, &values, k, 0..s.d, 0.0);
    }
    (y, lse)
}

pub fn backward_unit(
    dy: &[f32],
    saved: &SavedValues,
    s: AttentionShape,
    b: usize,
    kvh: usize,
) -> KeyHeadGradients {
    let group = s.h / s.kvh;
    let (td, key) = (s.t * s.d, HeadRows::of(s, b, s.kvh, kvh));
    let mut unit = KeyHeadGradients::new(s);
    let (k, v) = (key.rows(saved.k, 0..s.t, s.d), key.rows(saved.v, 0..s.t, s.d));
    let keys_plain = Right::pack(k, Threads::One); // (T, D)
    let [keys_turned, values_turned] = [k, v].map(|x| Right::pack(x.t(), Threads::One)); // (D, T)
    let (d_pairs, t_pairs, stride) = (s.d.div_ceil(2), s.t.div_ceil(2), s.t.next_multiple_of(4));
    let [mut p, mut ds] = [(); 2].map(|()| Values::any(BLOCK * s.t));
    let (mut rows_left, mut ds_left) = (vec![0; left_len(BLOCK, d_pairs)], vec![0; BLOCK * t_pairs]);
    let [mut p_turned, mut ds_turned] = [(); 2].map(|()| vec![0; BLOCK / 2 * stride]);
    for h in kvh * group..(kvh + 1) * group {
        let query = HeadRows::of(s, b, s.h, h);
        let dq = &mut unit.dq[(h - kvh * group) * td..][..td];
        for (queries, keys) in blocks(s) {
            let (rows, cols) = (queries.len(), keys.len());
            let (q, dy_rows) =
                (query.rows(saved.q, queries.clone(), s.d), query.rows(dy, queries.clone(), s.d));
            let left = pack_left(&mut rows_left, q);
            multiply(&mut p, s.t, rows, s.scale(), left, &keys_turned, 0..d_pairs, keys.clone(), 0.0);
            let left = pack_left(&mut rows_left, dy_rows);
            multiply(&mut ds, s.t, rows, 1.0, left, &values_turned, 0..d_pairs, keys.clone(), 0.0);
            vectorized!({
                let lines = p
                    .chunks_exact_mut(s.t)
                    .zip(ds.chunks_exact_mut(s.t))
                    .zip(ds_left.chunks_exact_mut(t_pairs));
                for (((p, ds), pairs), t) in lines.zip(queries.clone()) {
                    let lse = saved.lse[(b * s.h + h) * s.t + t];
                    let delta = simd::dot(query.row(dy, t, s.d), query.row(saved.y, t, s.d));
                    score_gradient(&mut p[..cols], &mut ds[..cols], seen(t, &keys, s.window), lse, delta);
                    pair_up(pairs, &ds[..cols]);
                }
                for (scores, turned) in [(&p, &mut p_turned), (&ds, &mut ds_turned)] {
                    for (r, out) in turned.chunks_exact_mut(stride).take(rows.div_ceil(2)).enumerate() {
                        let high = if 2 * r + 1 < rows { &scores[(2 * r + 1) * s.t..][..cols] } else { &[] };
                        interleave(&mut out[..cols], &scores[2 * r * s.t..][..cols], high);
                    }
                }
            });
            let turned = |pairs| Left { pairs, row: 1, pair: stride };
            let (of_keys, k) = (keys.start * s.d, 0..rows.div_ceil(2));
            let right = Right::pack(dy_rows, Threads::One);
            let dv = &mut unit.dv[of_keys..];
            multiply(dv, s.d, cols, 1.0, turned(&p_turned), &right, k.clone(), 0..s.d, 1.0);
            let right = Right::pack(q, Threads::One);
            let dk = &mut unit.dk[of_keys..];
            multiply(dk, s.d, cols, s.scale(), turned(&ds_turned), &right, k, 0..s.d, 1.0);
            let left = Left { pairs: &ds_left, row: t_pairs, pair: 1 };
            let k = keys.start / 2..keys.end.div_ceil(2);
            multiply(&mut dq[queries.start * s.d..], s.d, rows, s.scale(), left, &keys_plain, k, 0..s.d, 0.0);
        }
    }
    unit
}
