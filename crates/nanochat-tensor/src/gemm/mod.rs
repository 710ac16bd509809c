//! Matrix products on strided views: c = alpha · a b + beta · c.

pub(crate) mod bf16;
pub(crate) mod pairs;
mod symmetric;
mod tile;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::Dtype;
use crate::simd::CHUNK;

pub use bf16::{Right, product};

/// A read-only matrix inside a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix to write, stored by rows.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

/// Matrix products whose factors are rounded to this type; the sums are in f32 for every type.
impl Dtype {
    /// c (m, n) = alpha · a (m, k) · b (k, n) + beta · c
    #[track_caller]
    pub fn gemm(self, c: MatMut, alpha: f32, a: Mat, b: Mat, beta: f32, threads: Threads) {
        match self {
            Dtype::F32 => gemm(c, alpha, a, b, beta, threads),
            Dtype::Bf16 => product(c, alpha, a, &Right::pack(b, threads), beta, threads),
            Dtype::Int8 | Dtype::U32 => self.has_no("product of matrices"),
        }
    }

    /// c (m, n) = a (m, k) · b (k, n) + beta · c on all threads. Every value of c is passed to `before(i, values)`
    /// before it is summed and to `after(i, values)` afterwards, many values at a time, with i the index of the first:
    /// in bf16 in blocks of rows while they are in the cache, in f32 in separate passes.
    #[track_caller]
    pub fn gemm_between(
        self,
        c: MatMut,
        a: Mat,
        b: Mat,
        beta: f32,
        before: impl Fn(usize, &mut [f32]) + Sync,
        after: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        assert_eq!(c.row_stride, c.cols, "rows have something between them");
        match self {
            Dtype::F32 => {}
            Dtype::Bf16 => {
                let b = Right::pack(b, Threads::All);
                return bf16::product_between(c, 1.0, a, &b, beta, Threads::All, before, after);
            }
            Dtype::Int8 | Dtype::U32 => self.has_no("product of matrices"),
        }
        let MatMut { data, rows, cols, .. } = c;
        let each = |data: &mut [f32], f: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            data.par_chunks_mut(CHUNK).enumerate().for_each(|(i, values)| f(i * CHUNK, values));
        };
        each(data, &before);
        gemm(MatMut::new(data, rows, cols), 1.0, a, b, beta, Threads::All);
        each(data, &after);
    }

    /// Computes `gemm` on this thread for a symmetric product and a symmetric c, with little more than half the work.
    #[track_caller]
    pub fn symmetric_gemm(self, c: MatMut, alpha: f32, a: Mat, b: Mat, beta: f32) {
        symmetric::gemm(self, c, alpha, a, b, beta);
    }
}

/// Whether products in bf16 are faster than in f32 on this machine: the processor must have AVX512-BF16.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// How many threads share one product. Kernels that are parallel themselves use `One`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

impl<'a> Mat<'a> {
    /// Views `data` as a contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat::strided(data, rows, cols, cols)
    }

    /// Views `data` as rows of `cols` values that start `row_stride` apart. Panics if they do not fit.
    #[track_caller]
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Mat<'a> {
        assert!(fits(data.len(), rows, cols, row_stride), "{rows} x {cols} does not fit its slice");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    pub fn cols(self) -> usize {
        self.cols
    }

    /// Returns the transposed view.
    pub fn t(self) -> Mat<'a> {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Returns at most `len` columns from `first` on.
    fn columns(self, first: usize, len: usize) -> Mat<'a> {
        self.t().part(first, len).t()
    }

    /// Returns at most `len` rows from `first` on.
    fn part(self, first: usize, len: usize) -> Mat<'a> {
        let rows = len.min(self.rows.saturating_sub(first));
        let data = if rows == 0 { &[] } else { &self.data[first * self.row_stride..] };
        Mat { data, rows, ..self }
    }

    /// Returns a row; the matrix must be stored by rows.
    #[inline(always)]
    fn row(self, row: usize) -> &'a [f32] {
        debug_assert_eq!(self.col_stride, 1);
        &self.data[row * self.row_stride..][..self.cols]
    }

    #[inline(always)]
    fn row_or_empty(self, row: usize) -> &'a [f32] {
        if row < self.rows { self.row(row) } else { &[] }
    }

    #[inline(always)]
    fn each_row(self) -> impl Iterator<Item = &'a [f32]> {
        (0..self.rows).map(move |row| self.row(row))
    }
}

impl<'a> MatMut<'a> {
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> MatMut<'a> {
        MatMut::strided(data, rows, cols, cols)
    }

    #[track_caller]
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatMut<'a> {
        assert!(row_stride >= cols && fits(data.len(), rows, cols, row_stride), "rows would overlap");
        MatMut { data, rows, cols, row_stride }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len
}

/// c (m, n) = alpha · a (m, k) · b (k, n) + beta · c
#[track_caller]
pub fn gemm(c: MatMut, alpha: f32, a: Mat, b: Mat, beta: f32, threads: Threads) {
    assert!(
        a.rows == c.rows && b.cols == c.cols && a.cols == b.rows,
        "cannot multiply ({}, {}) by ({}, {}) into ({}, {})",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        c.rows,
        c.cols
    );
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: the constructors of Mat and MatMut checked that every element of these shapes and
    // strides lies inside its slice, the rows of c do not overlap, and c is borrowed exclusively.
    // (gemm calls `alpha` the factor of c and `beta` that of the product.)
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn every_layout_equals_three_loops() {
        let mut rng = Rng::new(&[5]);
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (1, 64, 33), (17, 2, 31), (40, 40, 40), (5, 0, 4)] {
            let mut random = |len: usize| (0..len).map(|_| rng.normal()).collect::<Vec<f32>>();
            let (a, b, c) = (random(m * k), random(k * n), random(m * (n + 3)));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            for (a, b) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
                (Mat::new(&at, k, m).t(), Mat::new(&bt, n, k).t()),
            ] {
                let mut got = c.clone();
                gemm(MatMut::strided(&mut got, m, n, n + 3), 0.5, a, b, 2.0, Threads::All);
                for (i, j) in (0..m).flat_map(|i| (0..n + 3).map(move |j| (i, j))) {
                    let at = |m: Mat, i: usize, j: usize| m.data[i * m.row_stride + j * m.col_stride];
                    let product: f32 =
                        if j < n { (0..k).map(|p| at(a, i, p) * at(b, p, j)).sum() } else { 0.0 };
                    let old = c[i * (n + 3) + j];
                    let want = if j < n { 0.5 * product + 2.0 * old } else { old };
                    assert!((got[i * (n + 3) + j] - want).abs() < 1e-4, "({m}, {k}, {n}) at ({i}, {j})");
                }
            }
        }
    }

    fn transposed(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..cols).flat_map(|j| (0..rows).map(move |i| a[i * cols + j])).collect()
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_view_past_its_slice_is_refused() {
        Mat::new(&[0.0; 5], 2, 3);
    }
}
