//! Rotary position embedding (Su et al. 2021) and the norm of queries and keys per head, in one pass.
//!
//! For the halves x1, x2 of a head and the angle a = position / base^(2i/D):
//! z1 = x1 cos a + x2 sin a,  z2 = −x1 sin a + x2 cos a,  y = z · r,  r = 1 / √(mean(z²) + eps)
//! dz = r · (dy − y · mean(dy · y)),  and dx rotates dz back by −a.

use std::sync::{Arc, OnceLock};

use crate::gpu::{Buffer, Gpu};
use crate::{Tape, Tensor};

mod cpu;
mod cuda;

/// cos and sin of every position and frequency, each (positions, D/2).
pub struct RotaryTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Copies of cos and sin on the GPU, made at their first use there.
    on_gpu: OnceLock<[Buffer; 2]>,
}

impl RotaryTable {
    /// Makes the table with angles computed in f32 as in PyTorch, position · (1 / base^(2i/D)).
    pub fn new(positions: usize, head_dim: usize, base: f32) -> Arc<RotaryTable> {
        assert!(head_dim.is_multiple_of(2), "rotary needs an even head_dim, found {head_dim}");
        let half = head_dim / 2;
        let inverse_frequency = |i: usize| base.powf(2.0 * i as f32 / head_dim as f32).recip();
        let inverse_frequencies: Vec<f32> = (0..half).map(inverse_frequency).collect();
        let angles = (0..positions).flat_map(|t| inverse_frequencies.iter().map(move |f| t as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Arc::new(RotaryTable { half, cos, sin, on_gpu: OnceLock::new() })
    }

    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// Returns cos and sin on the GPU.
    pub(crate) fn on_gpu(&self, gpu: &Gpu) -> &[Buffer; 2] {
        self.on_gpu.get_or_init(|| [&self.cos, &self.sin].map(|values| gpu.upload(values)))
    }

    /// Returns (cos, sin) of one position, each (D/2).
    #[inline(always)]
    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

impl Tape {
    /// x (B, T, H, D) -> (B, T, H, D); `positions` (B·T) holds the position of every token.
    #[track_caller]
    pub fn rotary_qk_norm(
        &self,
        x: &Tensor,
        table: &Arc<RotaryTable>,
        positions: &Arc<[usize]>,
        eps: f32,
    ) -> Tensor {
        let &[b, t, _, d] = x.shape() else { panic!("rotary wants (B, T, H, D), found {:?}", x.shape()) };
        assert_eq!(positions.len(), b * t, "rotary: a position for each of {b} x {t} tokens");
        assert_eq!(d, 2 * table.half, "rotary: head_dim {d} does not match the table");
        let last = positions.iter().copied().max().unwrap_or(0);
        assert!(last < table.positions(), "rotary: position {last} is outside {}", table.positions());
        let (y, r) = dispatch!(x, forward(x, table, positions, eps));
        let (target, output, table, positions) = (x.target(), y.clone(), table.clone(), positions.clone());
        self.record(&y, &[x], move |dy, grads| {
            let saved = (&output, &r);
            grads.accumulate(&target, |dx, beta| {
                dispatch!(dy, backward(dx, beta, dy, saved, &table, &positions))
            });
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::EPS;
    use crate::testing::{assert_close, assert_gpu_agrees, gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences() {
        let (table, positions) = (RotaryTable::new(9, 4, 10_000.0), Arc::from([0, 1, 2, 5, 0, 8]));
        gradcheck(&[randn(&[2, 3, 2, 4], 0)], |tape, v| tape.rotary_qk_norm(&v[0], &table, &positions, EPS));
    }

    /// Tests the purpose of rotary: products depend on distances only.
    #[test]
    fn products_depend_on_the_distance() {
        let table = RotaryTable::new(50, 8, 10_000.0);
        let (q, k) = (randn(&[1, 1, 1, 8], 0), randn(&[1, 1, 1, 8], 1));
        let at = |x: &Tensor, t: usize| Tape::off().rotary_qk_norm(x, &table, &Arc::from([t]), EPS);
        let product = |t: usize, u: usize| crate::simd::dot(at(&q, t).data(), at(&k, u).data());
        assert_close(&[product(40, 33)], &[product(7, 0)], 1e-4);
        assert!((product(40, 33) - product(40, 30)).abs() > 1e-3);
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        for d in [64, 128] {
            let (table, positions) = (RotaryTable::new(90, d, 10_000.0), Arc::from([0, 1, 2, 5, 0, 88]));
            let x = randn(&[2, 3, 5, d], 0);
            assert_gpu_agrees(&[x], 1, |tape, v| tape.rotary_qk_norm(&v[0], &table, &positions, EPS));
            let (x, positions) = (randn(&[1, 83, 1, d], 1), (0..83).collect());
            assert_gpu_agrees(&[x], 1, |tape, v| tape.rotary_qk_norm(&v[0], &table, &positions, 0.5));
        }
    }
}
