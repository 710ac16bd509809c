//! Elementwise loops over flat arrays that the tape and the tensors themselves use.

use crate::{Tensor, reuse, simd};

mod cuda;

/// y = factor · x + beta · y, where beta is 0 or 1; if it is 0, y is not read.
pub(crate) fn add_scaled(y: &mut Tensor, x: &Tensor, factor: f32, beta: f32) {
    dispatch!(x, add_scaled(y, x, factor, beta));
}

/// x + y
pub(crate) fn sum(x: &Tensor, y: &Tensor) -> Tensor {
    dispatch!(x, sum(x, y))
}

mod cpu {
    use super::*;

    pub fn add_scaled(y: &mut Tensor, x: &Tensor, factor: f32, beta: f32) {
        simd::par_zip(y.make_mut(), x.data(), |y, x| match beta {
            0.0 => y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x),
            _ => simd::axpy(y, factor, x),
        });
    }

    pub fn sum(x: &Tensor, y: &Tensor) -> Tensor {
        let mut sum = reuse::any(x.len());
        simd::par_zip(&mut sum, x.data(), |sum, x| sum.copy_from_slice(x));
        simd::add_assign(&mut sum, y.data());
        Tensor::new(sum, x.shape())
    }
}
