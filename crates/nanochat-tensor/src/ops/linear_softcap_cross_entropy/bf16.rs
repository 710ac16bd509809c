//! Loss and gradients with products in bf16, for training on the CPU.
//!
//! While a tile of logits is in L2, it becomes g (cpu.rs) and is multiplied into dx; g itself is kept in bf16, packed
//! for the product that makes dw. A thread takes a segment of the vocabulary for all rows of a chunk, so that lm_head,
//! which may be far larger than any cache, is read once a chunk.

use std::ops::Range;

use rayon::prelude::*;

use super::LossOutput;
use super::segments::{
    CHUNK_LOGITS, CHUNK_ROWS, RowSums, SEGMENTS, Segment, cap, finish, joined, put_rows, rows_of,
    unscaled_gradient,
};
use crate::Tensor;
use crate::gemm::bf16::{Left, Right, left_len, multiply, pack_left};
use crate::gemm::pairs::{interleave, pair_up};
use crate::gemm::{Mat, Threads};
use crate::reuse::{self, Values};
use crate::simd::vectorized;

/// A tile of logits: 48 KiB.
const ROWS: usize = 48;
const COLS: usize = 256;

/// The number of columns of g that are stored together, one unit of work for dw.
const BLOCK: usize = 64;

/// The weights of lm_head in the two layouts that products need.
struct LmHead {
    turned: Right, // (C, V)
    plain: Right,  // (V, C)
    c: usize,
}

/// Returns the number of rows whose g is held at a time.
pub fn chunk_rows(v: usize) -> usize {
    (CHUNK_LOGITS / v).clamp(ROWS, CHUNK_ROWS)
}

pub fn forward(x: &Tensor, lm_head: &Tensor, targets: &[u32], weights: &[f32]) -> LossOutput {
    let (n, c, v) = (x.rows(), x.cols(), lm_head.rows());
    let w = Mat::new(lm_head.data(), v, c);
    let head = LmHead { turned: Right::pack(w.t(), Threads::All), plain: Right::pack(w, Threads::All), c };
    let rows: Vec<usize> = (0..n).filter(|&n| weights[n] != 0.0).collect();
    let (mut nll, mut dx, mut dw) = (vec![0.0; n], reuse::zeros(n * c), reuse::zeros(v * c));
    let segment = v.div_ceil(SEGMENTS).next_multiple_of(COLS);
    let chunk_rows = chunk_rows(v);
    let mut g = Values::any(v.next_multiple_of(BLOCK) * chunk_rows.min(rows.len()).div_ceil(2));
    for rows in rows.chunks(chunk_rows) {
        let mut x_rows = rows_of(x, rows);
        let x_blocks: Vec<Vec<u32>> = x_rows.par_chunks(ROWS * c).map(|x| left_block(x, c)).collect();
        let (pairs, targets) =
            (rows.len().div_ceil(2), rows.iter().map(|&n| targets[n] as usize).collect::<Vec<_>>());
        let g: &mut [u32] = bytemuck::cast_slice_mut(&mut g[..v.next_multiple_of(BLOCK) * pairs]);
        let segments: Vec<Segment> = g
            .par_chunks_mut(segment * pairs)
            .enumerate()
            .map(|(i, g)| head.segment(g, i * segment..v.min((i + 1) * segment), &x_blocks, &targets))
            .collect();
        let (found, mut dx_rows) = joined(&segments, c);
        finish(rows, &targets, weights, &found, lm_head, &mut nll, &mut dw, &mut dx_rows, &mut x_rows);
        put_rows(&mut dx, rows, &dx_rows, c);
        let x_rows = Right::pack(Mat::new(&x_rows, rows.len(), c), Threads::All);
        dw.par_chunks_mut(BLOCK * c).zip(g.par_chunks(BLOCK * pairs)).for_each(|(dw, g)| {
            let left = Left { pairs: g, row: 1, pair: BLOCK };
            multiply(dw, c, dw.len() / c, 1.0, left, &x_rows, 0..pairs, 0..c, 1.0);
        });
    }
    LossOutput::new(nll, weights, Some((Tensor::new(dx, x.shape()), Tensor::new(dw, lm_head.shape()))))
}

fn left_block(x: &[f32], c: usize) -> Vec<u32> {
    let mut block = vec![0; left_len(x.len() / c, c.div_ceil(2))];
    pack_left(&mut block, Mat::new(x, x.len() / c, c));
    block
}

impl LmHead {
    /// Computes the given columns (a multiple of BLOCK except at the end) for all rows; fills g (columns / 64, rows /
    /// 2, 64).
    fn segment(
        &self,
        g: &mut [u32],
        columns: Range<usize>,
        x_blocks: &[Vec<u32>],
        targets: &[usize],
    ) -> Segment {
        let (rows, c) = (targets.len(), self.c);
        let (pairs, c_pairs) = (rows.div_ceil(2), c.div_ceil(2));
        let (mut found, mut dx) = (vec![RowSums::default(); rows], Values(reuse::any(rows * c)));
        let (mut tile, mut tile_pairs) = (vec![0.0; ROWS * COLS], vec![0; ROWS * COLS / 2]);
        for (first, g) in columns.clone().step_by(COLS).zip(g.chunks_mut(COLS * pairs)) {
            let tile_columns = first..columns.end.min(first + COLS);
            let blocks = x_blocks.iter().zip(dx.chunks_mut(ROWS * c)).zip(found.chunks_mut(ROWS)).enumerate();
            for (b, ((x, dx), found)) in blocks {
                let left = Left { pairs: x, row: c_pairs, pair: 1 };
                multiply(
                    &mut tile,
                    COLS,
                    found.len(),
                    1.0,
                    left,
                    &self.turned,
                    0..c_pairs,
                    tile_columns.clone(),
                    0.0,
                );
                vectorized!({
                    let rows = tile.chunks_exact_mut(COLS).zip(tile_pairs.chunks_exact_mut(COLS / 2));
                    for (r, (found, (z, pairs))) in found.iter_mut().zip(rows).enumerate() {
                        let z = &mut z[..tile_columns.len()];
                        if let Some(at) = targets[b * ROWS + r].checked_sub(first).filter(|&at| at < z.len())
                        {
                            found.capped = cap(z[at]);
                        }
                        found.total += unscaled_gradient(z);
                        pair_up(pairs, z);
                    }
                    for (g, at) in g.chunks_mut(BLOCK * pairs).zip((0..tile_columns.len()).step_by(BLOCK)) {
                        let g = g[b * ROWS / 2 * BLOCK..].chunks_exact_mut(BLOCK).zip(tile.chunks(2 * COLS));
                        for (r, (g, z)) in g.take(found.len().div_ceil(2)).enumerate() {
                            let end = tile_columns.len().min(at + BLOCK);
                            let high = if 2 * r + 1 < found.len() { &z[COLS + at..COLS + end] } else { &[] };
                            interleave(g, &z[at..end], high);
                        }
                    }
                });
                let left = Left { pairs: &tile_pairs, row: COLS / 2, pair: 1 };
                let k = first / 2..tile_columns.end.div_ceil(2);
                let beta = if first == columns.start { 0.0 } else { 1.0 };
                multiply(dx, c, found.len(), 1.0, left, &self.plain, k, 0..c, beta);
            }
        }
        Segment { found, dx }
    }
}
