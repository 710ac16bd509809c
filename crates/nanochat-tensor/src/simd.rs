//! The loops that the CPU kernels are made of, compiled for several vector widths (AVX-512, AVX2, NEON); the widest
//! that the processor has is chosen at run time.
//!
//! Sums run in 16 lanes that are added up in a fixed order: the compiler may not reorder a plain `sum()` and so cannot
//! vectorize it. The same input gives the same bits on one machine.

use std::sync::LazyLock;

use rayon::prelude::*;

pub(crate) const LANES: usize = 16;

/// The values of one task when a flat loop is split over threads: 64 KiB, so that they stay in cache and the split does
/// not depend on the number of threads.
pub const CHUNK: usize = 16_384;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Evaluates `work`, compiled for this processor's vectors. All functions that it calls must be `#[inline(always)]`.
///
/// This is a macro because the closure must be marked `#[inline(always)]` where it is written. A long closure without
/// the mark is compiled apart, without vectors of eight or sixteen: the loss and the copies for products once ran three
/// times slower for it.
#[macro_export]
macro_rules! vectorized {
    ($work:expr) => {
        $crate::simd::dispatch(
            #[inline(always)]
            || $work,
        )
    };
}
pub use crate::vectorized;

/// Runs `work` for `vectorized!`.
#[doc(hidden)]
#[inline(always)]
pub fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    ARCH.dispatch(work)
}

#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sum_lanes(lanes) + rest
}

#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, rest) = a.as_chunks::<LANES>();
    for a in a {
        for i in 0..LANES {
            lanes[i] += a[i];
        }
    }
    sum_lanes(lanes) + rest.iter().sum::<f32>()
}

#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (a, rest) = a.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for a in a {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], a[i]);
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Returns beta · value for beta 0 or 1: the old value that a new gradient is added to. With beta 0 the value may be
/// anything, NaN too.
#[inline(always)]
pub fn old(value: f32, beta: f32) -> f32 {
    if beta == 0.0 { 0.0 } else { value }
}

/// Computes y += a · x.
#[inline(always)]
pub fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Returns e^x to 2 ulp in the range that a softmax or a softcap needs (−87…88; outside it saturates).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_in_range(x.clamp(-87.0, 88.0))
}

/// Returns e^x like `exp`, but only for x from −87 to 88: a loop in which one `exp` feeds another is not vectorized if
/// both clamp. Uses range reduction by powers of two, then a polynomial of degree 6 (Cephes' expf coefficients).
#[inline(always)]
#[allow(clippy::excessive_precision)] // the two parts of ln 2 are exact
pub fn exp_in_range(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to the nearest integer, which is then in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_375 + n * 2.121_944_4e-4;
    let p = 1.987_569_15e-4;
    let p = p * r + 1.398_199_95e-3;
    let p = p * r + 8.333_451_9e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_55e-1;
    let p = p * r + 5.000_000_1e-1;
    let mantissa = p * r * r + r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    mantissa * f32::from_bits(power)
}

/// Returns tanh(x), computed with `exp`; the absolute error is below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Computes y += x on all threads.
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    par_zip(y, x, |y, x| axpy(y, 1.0, x));
}

/// Computes y *= factor on all threads.
pub fn scale(y: &mut [f32], factor: f32) {
    y.par_chunks_mut(CHUNK).for_each(|y| vectorized!(y.iter_mut().for_each(|y| *y *= factor)));
}

/// Returns Σ x² in f64, computed on all threads in an order that does not depend on their number.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(|x| f64::from(vectorized!(dot(x, x)))).collect();
    parts.iter().sum()
}

/// Calls `f` with the index and the values of each row of `cols` values, on all threads.
pub fn par_rows(y: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    y.par_chunks_exact_mut(cols).enumerate().for_each(|(row, y)| vectorized!(f(row, y)));
}

/// Calls `f` on matching chunks of `y` and `x`, on all threads.
pub fn par_zip(y: &mut [f32], x: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync) {
    assert_eq!(y.len(), x.len());
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| vectorized!(f(y, x)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn exp_and_tanh_are_close_to_the_library() {
        for i in -8_600..8_700 {
            let x = i as f32 * 0.01 + 0.003;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 2.5e-7, "exp({x}) = {got}, want {want}");
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn sums_equal_a_plain_loop_at_every_length() {
        let mut rng = Rng::new(&[1]);
        for len in 0..70 {
            let a: Vec<f32> = (0..len).map(|_| rng.normal()).collect();
            let b: Vec<f32> = (0..len).map(|_| rng.normal()).collect();
            let plain: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((vectorized!(dot(&a, &b)) - plain).abs() < 1e-4);
            assert!((sum(&a) - a.iter().sum::<f32>()).abs() < 1e-4);
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
