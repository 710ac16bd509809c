//! Muon (Jordan et al. 2024): momentum whose update is orthogonalized by five Newton–Schulz steps, so
//! that every direction of a matrix moves by about the same amount. In f32 on the CPU.

use nanochat_tensor::Tensor;
use nanochat_tensor::gemm::{Compute, Mat, MatMut, Threads};
use nanochat_tensor::simd::{dot, scale, vectorized};

/// Coefficients of x ↦ a x + b x³ + c x⁵ that lift small singular values to about 1 fastest.
pub const NEWTON_SCHULZ: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
pub const NEWTON_SCHULZ_STEPS: usize = 5;

/// With g already times `clip`:
/// buf ← m · buf + (1 − m) · g,  u = orthogonalized((1 − m) · g + m · buf),
/// w ← w − lr · max(1, rows / cols)^½ · u
pub fn update(
    w: &mut Tensor,
    g: &[f32],
    clip: f32,
    buf: &mut [f32],
    lr: f32,
    momentum: f32,
    compute: Compute,
) {
    let (rows, cols) = (w.rows(), w.cols());
    let mut u = vec![0.0; g.len()];
    vectorized!({
        for ((u, buf), g) in u.iter_mut().zip(buf).zip(g) {
            let g = clip * g;
            *buf = momentum * *buf + (1.0 - momentum) * g;
            *u = (1.0 - momentum) * g + momentum * *buf;
        }
    });
    let u = orthogonalize(u, rows, cols, compute);
    let step = lr * (rows as f32 / cols as f32).max(1.0).sqrt();
    vectorized!(w.data_mut().iter_mut().zip(&u).for_each(|(w, u)| *w -= step * u));
}

/// x (rows, cols) -> the nearest (semi-)orthogonal matrix, roughly: singular values 0.7 … 1.2.
///
/// With G the Gram matrix of the shorter side, a step is x ← a x + (b G + c G²) x for wide matrices
/// and x ← a x + x (b G + c G²) for tall ones, which is the same on the transpose without moving it.
fn orthogonalize(mut x: Vec<f32>, rows: usize, cols: usize, compute: Compute) -> Vec<f32> {
    let (a, b, c) = NEWTON_SCHULZ;
    let norm = vectorized!(x.chunks(1 << 16).map(|x| f64::from(dot(x, x))).sum::<f64>().sqrt()) as f32;
    scale(&mut x, 1.0 / (norm + 1e-7));
    let (short, tall) = (rows.min(cols), rows > cols);
    let (mut gram, mut polynomial) = (vec![0.0; short * short], vec![0.0; short * short]);
    let mut next = vec![0.0; x.len()];
    for _ in 0..NEWTON_SCHULZ_STEPS {
        let view = Mat::new(&x, rows, cols);
        let (left, right) = if tall { (view.t(), view) } else { (view, view.t()) };
        compute.symmetric_gemm(MatMut::new(&mut gram, short, short), 1.0, left, right, 0.0);
        polynomial.copy_from_slice(&gram);
        let gram = Mat::new(&gram, short, short);
        compute.symmetric_gemm(MatMut::new(&mut polynomial, short, short), c, gram, gram, b);
        next.copy_from_slice(&x);
        let polynomial = Mat::new(&polynomial, short, short);
        let (left, right) = if tall { (view, polynomial) } else { (polynomial, view) };
        compute.gemm(MatMut::new(&mut next, rows, cols), 1.0, left, right, a, Threads::One);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanochat_tensor::Rng;

    #[test]
    fn singular_values_come_close_to_one_for_wide_and_tall_matrices() {
        for (rows, cols) in [(8, 24), (24, 8), (16, 16)] {
            let mut rng = Rng::new(&[rows as u64, cols as u64]);
            let x: Vec<f32> = (0..rows * cols).map(|_| rng.normal()).collect();
            let u = orthogonalize(x, rows, cols, Compute::F32);
            // Trace of the Gram matrix = sum of squared singular values.
            let mean_square = u.iter().map(|u| u * u).sum::<f32>() / rows.min(cols) as f32;
            assert!((0.5..1.3).contains(&mean_square), "{rows} x {cols}: {mean_square}");
        }
    }

    #[test]
    fn a_zero_gradient_moves_nothing() {
        let mut w = Tensor::new(vec![1.0; 6], &[2, 3]);
        update(&mut w, &[0.0; 6], 1.0, &mut [0.0; 6], 0.1, 0.9, Compute::F32);
        assert_eq!(w.data(), [1.0; 6]);
    }
}
