//! One unit of work is one key head and a block of rows. Inside it pages come first and rows second: rows that share
//! a page (samples of one prompt, tokens of one chunk) read it from memory once. What a row computes is
//! the same, in the same order, whatever rows stand beside it.

use rayon::prelude::*;

use super::{CachedRow, KvPages, PAGE};
use crate::Tensor;
use crate::simd::{self, LANES, vectorized};

/// Query rows in a unit. Their scores, at 2,048 tokens 8 KB a row and query head, stay in L2.
const ROWS: usize = 16;

pub fn forward(q: &Tensor, cache: &KvPages, rows: &[CachedRow], window: usize) -> Vec<f32> {
    let (h, d) = (q.shape()[1], q.shape()[2]);
    let kvh = cache.kv_dim / d;
    // Fewer rows in a unit where the units would not reach every thread.
    let block = rows.len().div_ceil(2 * rayon::current_num_threads().div_ceil(kvh)).clamp(1, ROWS);
    let units: Vec<(usize, usize)> =
        (0..rows.len()).step_by(block).flat_map(|first| (0..kvh).map(move |head| (first, head))).collect();
    let outputs: Vec<Vec<f32>> = units
        .par_iter()
        .map(|&(first, head)| {
            let rows = &rows[first..rows.len().min(first + block)];
            let group = Group { q: &q.data()[first * h * d..], rows, h, d, head, window };
            vectorized(
                #[inline(always)]
                || group.attend(cache),
            )
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

/// The queries of some rows that share one key head.
struct Group<'a> {
    /// (rows, H, D)
    q: &'a [f32],
    rows: &'a [CachedRow<'a>],
    h: usize,
    d: usize,
    head: usize,
    window: usize,
}

impl Group<'_> {
    /// -> y (rows, H / KVH, D)
    #[inline(always)]
    fn attend(&self, cache: &KvPages) -> Vec<f32> {
        let (d, heads) = (self.d, self.h * self.d / cache.kv_dim);
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
                    score_page(&mut scores[at..at + PAGE], q, keys, scale);
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
                    add_values(&mut y[n * d..(n + 1) * d], p, &values[seen.start % PAGE * d..]);
                }
            }
        }
        y
    }

    /// The first position that a row sees.
    #[inline(always)]
    fn first(&self, row: &CachedRow) -> usize {
        row.len.saturating_sub(self.window)
    }

    /// The rows that see a page.
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
fn score_page(scores: &mut [f32], q: &[f32], keys: &[f32], scale: f32) {
    let mut sums = [[0.0; LANES]; PAGE / LANES];
    for (&q, keys) in q.iter().zip(keys.as_chunks::<PAGE>().0) {
        for (sums, keys) in sums.iter_mut().zip(keys.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                sums[i] += q * keys[i];
            }
        }
    }
    for (score, sum) in scores.iter_mut().zip(sums.as_flattened()) {
        *score = scale * sum;
    }
}

/// y (D) += p (tokens) · values (tokens, D)
#[inline(always)]
fn add_values(y: &mut [f32], p: &[f32], values: &[f32]) {
    let d = y.len();
    let (lanes, rest) = y.as_chunks_mut::<{ 4 * LANES }>();
    for (n, lanes) in lanes.iter_mut().enumerate() {
        let mut sums = *lanes;
        for (u, &p) in p.iter().enumerate() {
            let values: &[f32; 4 * LANES] = values[u * d + n * 4 * LANES..].first_chunk().expect("D values");
            for i in 0..4 * LANES {
                sums[i] += p * values[i];
            }
        }
        *lanes = sums;
    }
    let done = d - rest.len();
    for (u, &p) in p.iter().enumerate() {
        simd::axpy(rest, p, &values[u * d + done..(u + 1) * d]);
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let max = simd::max(scores);
    scores.iter_mut().for_each(|s| *s = simd::exp(*s - max));
    let reciprocal = simd::sum(scores).recip();
    scores.iter_mut().for_each(|s| *s *= reciprocal);
}
