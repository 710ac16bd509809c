//! Attention over the paged cache on the CPU. A unit of work is one key head and a block of rows. Inside it the outer
//! loop is over pages and the inner one over rows, so that rows that share a page (samples of one prompt, tokens of one
//! chunk) read it from memory once. A row's computation is the same, in the same order, whatever other rows are in the
//! block.

use rayon::prelude::*;

use super::{CachedRow, KvPages, PAGE};
use crate::Tensor;
use crate::simd::{self, LANES};
use crate::simd16::{self, Kernel, Simd};

/// The number of query rows in a unit. Their scores, 8 KB a row and query head at 2,048 tokens, stay in L2.
const ROWS: usize = 16;

pub fn forward(q: &Tensor, cache: &KvPages, rows: &[CachedRow], window: usize) -> Vec<f32> {
    let (h, d) = (q.shape()[1], q.shape()[2]);
    let kvh = cache.kv_dim / d;
    // A unit has fewer rows where otherwise some threads would have no unit.
    let block = rows.len().div_ceil(2 * rayon::current_num_threads().div_ceil(kvh)).clamp(1, ROWS);
    let units: Vec<(usize, usize)> =
        (0..rows.len()).step_by(block).flat_map(|first| (0..kvh).map(move |head| (first, head))).collect();
    let outputs: Vec<Vec<f32>> = units
        .par_iter()
        .map(|&(first, head)| {
            let rows = &rows[first..rows.len().min(first + block)];
            simd16::run(Group { cache, q: &q.data()[first * h * d..], rows, h, d, head, window })
        })
        .collect();
    let mut y = vec![0.0; q.len()];
    let width = h / kvh * d;
    for ((first, head), output) in units.into_iter().zip(outputs) {
        for (i, output) in output.chunks_exact(width).enumerate() {
            y[(first + i) * h * d + head * width..][..width].copy_from_slice(output);
        }
    }
    y
}

/// A unit of work: the queries of some rows that share one key head.
struct Group<'a> {
    cache: &'a KvPages,
    /// (rows, H, D)
    q: &'a [f32],
    rows: &'a [CachedRow<'a>],
    h: usize,
    d: usize,
    head: usize,
    window: usize,
}

impl Kernel for Group<'_> {
    /// y (rows, H / KVH, D)
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let (cache, d, heads) = (self.cache, self.d, self.h * self.d / self.cache.kv_dim);
        let last_page = self.rows.iter().map(|row| row.len.div_ceil(PAGE)).max().unwrap_or(0);
        let first_page = self.rows.iter().map(|row| self.first(row) / PAGE).min().unwrap_or(0);
        let span = (last_page - first_page) * PAGE;
        let mut scores = vec![0.0; self.rows.len() * heads * span];
        let scale = (d as f32).sqrt().recip();
        for page in first_page..last_page {
            for (i, row) in self.seeing(page) {
                let keys = cache.keys(row.pages[page], self.head);
                for h in 0..heads {
                    let q = &self.q[(i * self.h + self.head * heads + h) * d..][..d];
                    let at = (i * heads + h) * span + (page - first_page) * PAGE;
                    score_page(simd, &mut scores[at..at + PAGE], q, keys, scale);
                }
            }
        }
        for (i, scores) in scores.chunks_exact_mut(span).enumerate() {
            let row = &self.rows[i / heads];
            softmax(&mut scores[self.first(row) - first_page * PAGE..row.len - first_page * PAGE]);
        }
        let mut y = vec![0.0; self.rows.len() * heads * d];
        for page in first_page..last_page {
            for (i, row) in self.seeing(page) {
                let values = cache.values(row.pages[page], self.head);
                let seen = self.first(row).max(page * PAGE)..row.len.min((page + 1) * PAGE);
                for n in i * heads..(i + 1) * heads {
                    let p = &scores[n * span..][seen.start - first_page * PAGE..seen.end - first_page * PAGE];
                    add_values(simd, &mut y[n * d..(n + 1) * d], p, &values[seen.start % PAGE * d..]);
                }
            }
        }
        y
    }
}

impl Group<'_> {
    /// Returns the first position that a row sees.
    #[inline(always)]
    fn first(&self, row: &CachedRow) -> usize {
        row.len.saturating_sub(self.window)
    }

    /// Returns the rows that see a page, with their indices.
    #[inline(always)]
    fn seeing(&self, page: usize) -> impl Iterator<Item = (usize, &CachedRow<'_>)> {
        let sees = move |row: &CachedRow| page * PAGE < row.len && (page + 1) * PAGE > self.first(row);
        self.rows.iter().enumerate().filter(
            #[inline(always)]
            move |(_, row)| sees(row),
        )
    }
}

/// scores (PAGE) = scale · q (D) · keys (D, PAGE)
#[inline(always)]
fn score_page<S: Simd>(simd: S, scores: &mut [f32], q: &[f32], keys: &[f32], scale: f32) {
    const WIDE: usize = PAGE / LANES;
    // Two sets of sums, since a single one would wait for its own last product.
    let mut sums = [[simd.zero(); WIDE]; 2];
    let keys = keys.as_chunks::<LANES>().0.as_chunks::<WIDE>().0.as_chunks::<2>().0;
    for (q, keys) in q.as_chunks::<2>().0.iter().zip(keys) {
        for odd in 0..2 {
            let q = simd.splat(q[odd]);
            for i in 0..WIDE {
                sums[odd][i] = simd.mul_add(q, simd.load(&keys[odd][i]), sums[odd][i]);
            }
        }
    }
    let (scale, scores) = (simd.splat(scale), scores.as_chunks_mut::<LANES>().0);
    for i in 0..WIDE {
        let sum = simd.mul_add(scale, sums[1][i], simd.zero());
        scores[i] = simd.store(simd.mul_add(scale, sums[0][i], sum));
    }
}

/// y (D) += p (tokens) · values (tokens, D)
#[inline(always)]
fn add_values<S: Simd>(simd: S, y: &mut [f32], p: &[f32], values: &[f32]) {
    let (d, mut at) = (y.len(), 0);
    while d - at >= 8 * LANES {
        add_columns::<S, 8>(simd, &mut y[at..], p, &values[at..], d);
        at += 8 * LANES;
    }
    while d - at >= LANES {
        add_columns::<S, 1>(simd, &mut y[at..], p, &values[at..], d);
        at += LANES;
    }
    for (u, &p) in p.iter().enumerate() {
        simd::axpy(&mut y[at..], p, &values[u * d + at..(u + 1) * d]);
    }
}

/// Computes the first 16 · N columns of `add_values`.
#[inline(always)]
fn add_columns<S: Simd, const N: usize>(simd: S, y: &mut [f32], p: &[f32], values: &[f32], d: usize) {
    let y = &mut y.as_chunks_mut::<LANES>().0[..N];
    let mut sums = [simd.zero(); N];
    for i in 0..N {
        sums[i] = simd.load(&y[i]);
    }
    for (u, &p) in p.iter().enumerate() {
        let (p, values) = (simd.splat(p), &values[u * d..].as_chunks::<LANES>().0[..N]);
        for i in 0..N {
            sums[i] = simd.mul_add(p, simd.load(&values[i]), sums[i]);
        }
    }
    for i in 0..N {
        y[i] = simd.store(sums[i]);
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let max = simd::max(scores);
    scores.iter_mut().for_each(|s| *s = simd::exp(*s - max));
    let reciprocal = simd::sum(scores).recip();
    scores.iter_mut().for_each(|s| *s *= reciprocal);
}
