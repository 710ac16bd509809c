use rayon::prelude::*;

use super::{CachedRow, KvPages, PAGE};
use crate::Tensor;
use crate::simd::{self, axpy, dot, vectorized};

pub fn forward(q: &Tensor, cache: &KvPages, rows: &[CachedRow], window: usize) -> Vec<f32> {
    let (h, d) = (q.shape()[1], q.shape()[2]);
    let group = h * d / cache.kv_dim;
    let mut y = vec![0.0; q.len()];
    y.par_chunks_mut(d).zip(q.data().par_chunks(d)).enumerate().for_each(|(n, (y, q))| {
        vectorized(|| one_head(y, q, cache, rows[n / h], (n % h) / group * d, window));
    });
    y
}

/// One query (D) over the keys it sees, page by page; `at` is where its key head starts in a token.
#[inline(always)]
fn one_head(y: &mut [f32], q: &[f32], cache: &KvPages, row: CachedRow, at: usize, window: usize) {
    let (d, stride) = (q.len(), cache.kv_dim);
    let scale = (d as f32).sqrt().recip();
    let first = row.len.saturating_sub(window);
    let mut scores = Vec::with_capacity(row.len - first);
    for (positions, page) in pages(row, first) {
        let keys = &cache.k[page * PAGE * stride..][..PAGE * stride];
        scores.extend(positions.map(|u| scale * dot(q, &keys[u % PAGE * stride + at..][..d])));
    }
    let max = simd::max(&scores);
    scores.iter_mut().for_each(|s| *s = simd::exp(*s - max));
    let reciprocal = simd::sum(&scores).recip();
    for (positions, page) in pages(row, first) {
        let values = &cache.v[page * PAGE * stride..][..PAGE * stride];
        for u in positions {
            axpy(y, scores[u - first] * reciprocal, &values[u % PAGE * stride + at..][..d]);
        }
    }
}

/// The visible positions `first..row.len`, cut at page borders, with the page each part lies in.
#[inline(always)]
fn pages(row: CachedRow<'_>, first: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    (first / PAGE..row.len.div_ceil(PAGE)).map(move |n| {
        let positions = first.max(n * PAGE)..row.len.min((n + 1) * PAGE);
        (positions, row.pages[n] as usize)
    })
}
