//! Matrix products whose factors are rounded to bf16 and whose sums are in f32.
//!
//! AVX512-BF16 multiplies pairs: two neighbours in k, packed into one u32 (tile.rs). So both factors are laid out in
//! such pairs: the right one once, in panels of 32 columns, and the left one by each thread for the rows that it works
//! on. Packing rounds as well, so rounding needs no pass over memory of its own.
//!
//! An element of c is summed over k in the same order for any number of threads. Speed: benches/products.rs.

use std::ops::Range;

use rayon::prelude::*;

use super::pairs::{interleave, pair_up, turn};
use super::tile::{self, COLS, ROWS, Tile};
use super::{Mat, MatMut, Threads};
use crate::reuse::{self, Values};
use crate::simd::vectorized;

/// The number of pairs of k that are summed before c is read or written. A panel of them (32 KiB) streams from L2; with
/// 128, which stay in L1, products with a k of 384 and more are 3 to 8 % slower, since c is read and written more
/// often.
const PAIRS: usize = 256;

/// The number of rows of c that one thread takes at a time; it reads the whole right factor for each such block.
const BLOCK: usize = 4 * ROWS;

/// The block for right factors of at least WIDE columns, 512 rows of which (1 MiB and more) fill L2: dw of (1,536, 384)
/// with 4,096 rows runs at 190 instead of 172 GFLOP/s a core. It is not used where threads would share few rows much
/// less evenly, as with 256 rows, which make only three blocks.
const WIDE_BLOCK: usize = 8 * ROWS;
const WIDE: usize = 1_024;

/// The number of rows of a left factor is rounded up to a multiple of this.
const ROW_STEP: usize = 4;

/// The number of panels of a block that one thread lays out at a time.
const UNIT_PANELS: usize = 16;

/// The number of columns in a panel of a right factor.
pub const PANEL: usize = COLS;

/// A packed right factor (K, N).
pub type Right = Panels<PANEL>;

/// A matrix (K, N) in bf16, as pairs of k in panels of W columns: (K / 512, N / W, 256, W). The last block of k has as
/// many pairs as remain; sizes that are no multiples are padded with zeros.
///
/// A block of k is packed row by row. Panel by panel, a matrix with rows of 4 KiB would touch a page for each row, more
/// than the TLB has entries.
pub struct Panels<const W: usize> {
    values: Values,
    pairs: usize,
    n: usize,
}

impl<const W: usize> Panels<W> {
    /// Rounds and lays out b (K, N).
    pub fn pack(b: Mat, threads: Threads) -> Panels<W> {
        let (pairs, panels) = (b.rows.div_ceil(2), b.cols.div_ceil(W));
        let mut values = Values(reuse::any(panels * pairs * W));
        let (values_of_panels, _) = bytemuck::cast_slice_mut(&mut values).as_chunks_mut();
        let block = |(block, values): (usize, &mut [[u32; W]])| {
            let b = b.part(block * 2 * PAIRS, 2 * PAIRS);
            let unit = |(i, out): (usize, &mut [[u32; W]])| {
                vectorized!(pack_block(out, b.columns(i * UNIT_PANELS * W, UNIT_PANELS * W)));
            };
            let len = UNIT_PANELS * b.rows.div_ceil(2);
            match threads {
                Threads::One => values.chunks_mut(len).enumerate().for_each(unit),
                Threads::All => values.par_chunks_mut(len).enumerate().for_each(unit),
            }
        };
        let len = (panels * PAIRS).max(1);
        match threads {
            Threads::One => values_of_panels.chunks_mut(len).enumerate().for_each(block),
            Threads::All => values_of_panels.par_chunks_mut(len).enumerate().for_each(block),
        }
        Panels { values, pairs, n: b.cols }
    }

    /// Returns the given pairs, all of one block, of a panel.
    fn panel(&self, panel: usize, pairs: Range<usize>) -> &[[u32; W]] {
        let first = pairs.start / PAIRS * PAIRS;
        let in_block = PAIRS.min(self.pairs - first);
        let at = first * self.n.div_ceil(W) + panel * in_block + pairs.start - first;
        &bytemuck::cast_slice(&self.values).as_chunks().0[at..at + pairs.len()]
    }
}

/// Rows of a left factor (M, K) in pairs: pair p of row r is at r · `row` + p · `pair`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub pairs: &'a [u32],
    pub row: usize,
    pub pair: usize,
}

/// Returns the number of values that `pack_left` needs for `rows` rows of `pairs` pairs.
pub fn left_len(rows: usize, pairs: usize) -> usize {
    rows.next_multiple_of(ROW_STEP) * pairs
}

/// Rounds a (M, K), whose rows are contiguous, to pairs in the first values of `into`.
pub fn pack_left<'a>(into: &'a mut [u32], a: Mat) -> Left<'a> {
    let pairs = a.cols.div_ceil(2);
    vectorized!({
        into.chunks_exact_mut(pairs.max(1)).zip(a.each_row()).for_each(|(out, row)| pair_up(out, row))
    });
    Left { pairs: into, row: pairs, pair: 1 }
}

/// c (M, N) = alpha · a (M, K) · b (K, N) + beta · c
pub fn product(c: MatMut, alpha: f32, a: Mat, b: &Right, beta: f32, threads: Threads) {
    product_between(c, alpha, a, b, beta, threads, nothing, nothing);
}

/// Computes `product` and calls `before` and `after` on blocks of rows, as `Dtype::gemm_between` describes.
pub fn product_between(
    c: MatMut,
    alpha: f32,
    a: Mat,
    b: &Right,
    beta: f32,
    threads: Threads,
    before: impl Fn(usize, &mut [f32]) + Sync,
    after: impl Fn(usize, &mut [f32]) + Sync,
) {
    let columns = |_| b.n;
    let workers = if threads == Threads::All { rayon::current_num_threads() } else { 1 };
    // The number of rows that the busiest thread works on.
    let most = |block| c.rows.div_ceil(block).div_ceil(workers) * block;
    if b.n >= WIDE && 10 * most(WIDE_BLOCK) <= 11 * most(BLOCK) {
        product_of_blocks::<WIDE_BLOCK>(c, alpha, a, b, beta, threads, columns, before, after);
    } else {
        product_of_blocks::<BLOCK>(c, alpha, a, b, beta, threads, columns, before, after);
    }
}

/// Computes `product` of a square c on this thread, but only up to the diagonal and a little above it.
pub fn lower_triangle(c: MatMut, alpha: f32, a: Mat, b: &Right, beta: f32) {
    let columns = |end| b.n.min(end);
    product_of_blocks::<BLOCK>(c, alpha, a, b, beta, Threads::One, columns, nothing, nothing);
}

fn nothing(_: usize, _: &mut [f32]) {}

/// Computes `product`, but only the first `columns(end)` values of each block of rows that ends before row `end`.
fn product_of_blocks<const BLOCK: usize>(
    c: MatMut,
    alpha: f32,
    a: Mat,
    b: &Right,
    beta: f32,
    threads: Threads,
    columns: impl Fn(usize) -> usize + Sync,
    before: impl Fn(usize, &mut [f32]) + Sync,
    after: impl Fn(usize, &mut [f32]) + Sync,
) {
    assert!(a.rows == c.rows && a.cols.div_ceil(2) == b.pairs && b.n == c.cols, "factors do not fit");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let turned = (a.col_stride != 1).then(|| Panels::<BLOCK>::pack(a.t(), threads));
    let (stride, blocks) = (c.row_stride, c.rows.div_ceil(BLOCK));
    let block = |(i, c): (usize, &mut [f32])| {
        let a = a.part(i * BLOCK, BLOCK);
        before(i * BLOCK * stride, c);
        let mut scratch = vec![0; left_len(BLOCK, PAIRS)];
        for first in (0..b.pairs.max(1)).step_by(PAIRS) {
            let pairs = first..b.pairs.min(first + PAIRS);
            let left = match &turned {
                Some(turned) => {
                    Left { pairs: turned.panel(i, pairs.clone()).as_flattened(), row: 1, pair: BLOCK }
                }
                None => pack_left(&mut scratch, a.columns(2 * first, 2 * PAIRS)),
            };
            let beta = if first == 0 { beta } else { 1.0 };
            multiply(c, stride, a.rows, alpha, left, b, pairs, 0..columns((i + 1) * BLOCK), beta);
        }
        after(i * BLOCK * stride, c);
    };
    match threads {
        Threads::One => c.data.chunks_mut(BLOCK * stride).take(blocks).enumerate().for_each(block),
        Threads::All => c.data.par_chunks_mut(BLOCK * stride).take(blocks).enumerate().for_each(block),
    }
}

/// c (rows, columns) = alpha · left · right + beta · c on this thread, over the given pairs and columns of the right
/// factor. `columns` must begin at a panel, and `left` begins at the first of the pairs.
pub fn multiply(
    c: &mut [f32],
    stride: usize,
    rows: usize,
    alpha: f32,
    left: Left,
    right: &Right,
    pairs: Range<usize>,
    columns: Range<usize>,
    beta: f32,
) {
    let mut first = pairs.start;
    loop {
        let end = pairs.end.min((first / PAIRS + 1) * PAIRS);
        let left_pairs = &left.pairs[(first - pairs.start) * left.pair..];
        for from in columns.clone().step_by(COLS) {
            let right = right.panel(from / COLS, first..end);
            for top in (0..rows).step_by(ROWS) {
                tile::run(Tile {
                    left: &left_pairs[top * left.row..],
                    strides: [left.row, left.pair],
                    right,
                    c: &mut c[top * stride + from - columns.start..],
                    stride,
                    rows: ROWS.min(rows - top),
                    cols: COLS.min(columns.end - from),
                    alpha,
                    beta: if first == pairs.start { beta } else { 1.0 },
                });
            }
        }
        first = end;
        if first >= pairs.end {
            return;
        }
    }
}

/// Packs at most 512 rows of b (K, N) as (N / W, K / 2, W).
#[inline(always)]
fn pack_block<const W: usize>(out: &mut [[u32; W]], b: Mat) {
    let pairs = b.rows.div_ceil(2);
    if b.col_stride == 1 {
        for p in 0..pairs {
            let (low, high) = (b.row(2 * p), b.row_or_empty(2 * p + 1));
            for (panel, low) in low.chunks(W).enumerate() {
                interleave(&mut out[panel * pairs + p], low, high.get(panel * W..).unwrap_or(&[]));
            }
        }
        return;
    }
    for (panel, out) in out.chunks_exact_mut(pairs).enumerate() {
        turn(out, b.columns(panel * W, W).t().each_row());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::gemm::gemm;
    use crate::testing::{assert_close, randn};

    fn rounded(x: &[f32]) -> Vec<f32> {
        x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect()
    }

    #[test]
    fn every_layout_equals_the_product_of_rounded_factors() {
        for (m, k, n) in
            [(1, 1, 1), (3, 5, 7), (13, 64, 33), (50, 385, 31), (100, 800, 70), (96, 2, 64), (5, 0, 4)]
        {
            let (a, b, c) = (randn(&[m, k], 0), randn(&[k, n], 1), randn(&[m, n + 3], 2));
            let (a, b) = (rounded(a.data()), rounded(b.data()));
            let turned = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
            };
            let (at, bt) = (turned(&a, m, k), turned(&b, k, n));
            for beta in [0.0, 1.0, 2.0] {
                let mut want = c.data().to_vec();
                let into = MatMut::strided(&mut want, m, n, n + 3);
                gemm(into, 0.5, Mat::new(&a, m, k), Mat::new(&b, k, n), beta, Threads::One);
                for a in [Mat::new(&a, m, k), Mat::new(&at, k, m).t()] {
                    for b in [Mat::new(&b, k, n), Mat::new(&bt, n, k).t()] {
                        for threads in [Threads::One, Threads::All] {
                            let mut got = c.data().to_vec();
                            let into = MatMut::strided(&mut got, m, n, n + 3);
                            Dtype::Bf16.gemm(into, 0.5, a, b, beta, threads);
                            assert_close(&got, &want, 1e-4);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_loops_for_other_processors_agree() {
        let (left, right) = (randn(&[12, 40], 0), randn(&[40, 32], 1));
        let right = Right::pack(Mat::new(right.data(), 40, 32), Threads::One);
        let mut scratch = vec![0; left_len(12, 20)];
        let left = pack_left(&mut scratch, Mat::new(left.data(), 12, 40));
        let (mut fast, mut plain) = (vec![1.0; 384], vec![1.0; 384]);
        multiply(&mut fast, 32, 12, 1.0, left, &right, 0..20, 0..32, 1.0);
        tile::plain(Tile {
            left: left.pairs,
            strides: [left.row, left.pair],
            right: right.panel(0, 0..20),
            c: &mut plain,
            stride: 32,
            rows: 12,
            cols: 32,
            alpha: 1.0,
            beta: 1.0,
        });
        assert_close(&fast, &plain, 1e-5);
    }
}
