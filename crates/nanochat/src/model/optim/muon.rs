//! Muon (Jordan et al. 2024): momentum whose update is orthogonalized by five Newton–Schulz steps, so
//! that every direction of a matrix moves by about the same amount. On the CPU.

use nanochat_tensor::reuse::Values;
use nanochat_tensor::simd::vectorized;
use nanochat_tensor::{Dtype, Tensor};

use super::newton_schulz::orthogonalize;

/// Updates the weight `w` and its momentum buffer `buf` in place, with the gradient clip · g.
pub fn update(
    w: &mut Tensor,
    g: &[f32],
    clip: f32,
    buf: &mut [f32],
    lr: f32,
    momentum: f32,
    products: Dtype,
) {
    let (rows, cols) = (w.rows(), w.cols());
    let mut u = Values::any(g.len());
    vectorized!({
        for ((u, buf), g) in u.iter_mut().zip(buf).zip(g) {
            let g = clip * g;
            *buf = momentum * *buf + (1.0 - momentum) * g;
            *u = (1.0 - momentum) * g + momentum * *buf;
        }
    });
    let u = orthogonalize(u, rows, cols, products);
    let step = lr * (rows as f32 / cols as f32).max(1.0).sqrt();
    vectorized!(w.data_mut().iter_mut().zip(u.iter()).for_each(|(w, u)| *w -= step * u));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_gradient_moves_nothing() {
        let mut w = Tensor::new(vec![1.0; 6], &[2, 3]);
        update(&mut w, &[0.0; 6], 1.0, &mut [0.0; 6], 0.1, 0.9, Dtype::F32);
        assert_eq!(w.data(), [1.0; 6]);
    }
}
