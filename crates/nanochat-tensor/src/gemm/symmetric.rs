//! Symmetric products such as x xᵀ, computed up to the diagonal and then mirrored.

use super::bf16::{self, Right};
use super::{Mat, MatMut, Threads};
use crate::Dtype;

/// The number of rows of c that are computed together in f32, up to the same column.
const ROWS: usize = 96;

/// The side of the squares that are mirrored one after the other; the rows and columns of both stay in L1.
const SQUARE: usize = 32;

#[track_caller]
pub fn gemm(products: Dtype, c: MatMut, alpha: f32, a: Mat, b: Mat, beta: f32) {
    let (n, stride) = (c.rows, c.row_stride);
    assert_eq!(c.rows, c.cols, "a symmetric matrix is square");
    match products {
        Dtype::F32 => {
            for (i, c) in c.data.chunks_mut(ROWS * stride).take(n.div_ceil(ROWS)).enumerate() {
                let (a, end) = (a.part(i * ROWS, ROWS), n.min((i + 1) * ROWS));
                let c = MatMut::strided(c, a.rows, end, stride);
                super::gemm(c, alpha, a, b.columns(0, end), beta, Threads::One);
            }
        }
        Dtype::Bf16 => {
            let c = MatMut::strided(c.data, n, n, stride);
            bf16::lower_triangle(c, alpha, a, &Right::pack(b, Threads::One), beta);
        }
        Dtype::Int8 | Dtype::U32 => products.has_no("symmetric product"),
    }
    mirror(c.data, n, stride);
}

/// Copies the values below the diagonal to above it.
fn mirror(c: &mut [f32], n: usize, stride: usize) {
    for top in (0..n).step_by(SQUARE) {
        for left in (0..=top).step_by(SQUARE) {
            for row in top..n.min(top + SQUARE) {
                for column in left..row.min(left + SQUARE) {
                    c[column * stride + row] = c[row * stride + column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, randn};

    #[test]
    fn half_of_a_symmetric_product_is_all_of_it() {
        for (n, k) in [(1, 3), (31, 8), (100, 300), (200, 70)] {
            let (x, old) = (randn(&[n, k], 0), randn(&[n, n], 1));
            let symmetric: Vec<f32> =
                (0..n * n).map(|i| old.data()[i] + old.data()[i % n * n + i / n]).collect();
            for products in [Dtype::F32, Dtype::Bf16] {
                for beta in [0.0, 0.5] {
                    let x = Mat::new(x.data(), n, k);
                    let [mut got, mut want] = [(); 2].map(|()| symmetric.clone());
                    products.symmetric_gemm(MatMut::new(&mut got, n, n), 2.0, x, x.t(), beta);
                    products.gemm(MatMut::new(&mut want, n, n), 2.0, x, x.t(), beta, Threads::One);
                    assert_close(&got, &want, 1e-4);
                }
            }
        }
    }
}
