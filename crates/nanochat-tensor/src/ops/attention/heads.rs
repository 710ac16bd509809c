//! The parts that attention on the CPU in f32 and in bf16 share: heads inside their tensors, softmax and its gradient.

use std::ops::Range;

use super::AttentionShape;
use crate::gemm::Mat;
use crate::reuse::{self, Values};
use crate::simd;

/// The values of the tensors that the forward pass saved.
pub struct SavedValues<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub y: &'a [f32],
    pub lse: &'a [f32],
}

/// One head of one batch row inside (B, T, heads, D).
#[derive(Clone, Copy)]
pub struct HeadRows {
    start: usize,
    row_stride: usize,
}

impl HeadRows {
    pub fn of(s: AttentionShape, b: usize, heads: usize, head: usize) -> HeadRows {
        HeadRows { start: (b * s.t * heads + head) * s.d, row_stride: heads * s.d }
    }

    pub fn rows(self, data: &[f32], rows: Range<usize>, d: usize) -> Mat<'_> {
        Mat::strided(&data[self.start + rows.start * self.row_stride..], rows.len(), d, self.row_stride)
    }

    pub fn row(self, data: &[f32], row: usize, d: usize) -> &[f32] {
        &data[self.start + row * self.row_stride..][..d]
    }
}

/// The gradients of one key head and of the query heads that share it.
pub struct KeyHeadGradients {
    pub dq: Values, // (H / KVH, T, D)
    pub dk: Values, // (T, D)
    pub dv: Values, // (T, D)
}

impl KeyHeadGradients {
    /// Allocates the gradients: dk and dv are zeros to add to, and dq is uninitialized.
    pub fn new(s: AttentionShape) -> KeyHeadGradients {
        let td = s.t * s.d;
        let [dk, dv] = [(); 2].map(|()| Values(reuse::zeros(td)));
        KeyHeadGradients { dq: Values::any(s.h / s.kvh * td), dk, dv }
    }
}

/// Returns the columns of a block's score row that the query at `t` sees.
#[inline(always)]
pub fn seen(t: usize, keys: &Range<usize>, window: usize) -> Range<usize> {
    (t + 1).saturating_sub(window).max(keys.start) - keys.start..t + 1 - keys.start
}

/// Turns scores into probabilities in place, zero where unseen; returns the log-sum-exp.
#[inline(always)]
pub fn softmax(row: &mut [f32], seen: Range<usize>) -> f32 {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    let row = &mut row[seen];
    let max = simd::max(row);
    row.iter_mut().for_each(|p| *p = simd::exp(*p - max));
    let sum = simd::sum(row);
    let reciprocal = sum.recip();
    row.iter_mut().for_each(|p| *p *= reciprocal);
    max + sum.ln()
}

/// Turns scores into p = e^(score − lse), and dy vᵀ into ds = p · (dy vᵀ − delta), in place; zero where unseen.
#[inline(always)]
pub fn score_gradient(p: &mut [f32], ds: &mut [f32], seen: Range<usize>, lse: f32, delta: f32) {
    for row in [&mut *p, &mut *ds] {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
    }
    for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
        *p = simd::exp(*p - lse);
        *ds = *p * (*ds - delta);
    }
}
