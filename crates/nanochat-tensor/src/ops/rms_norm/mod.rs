//! Root-mean-square norm without learned gains (nanochat's `norm`).
//!
//! y = x · r,  r = 1 / √(mean(x²) + eps)
//! dx = r · (dy − y · mean(dy · y))

use crate::{Tape, Tensor};

pub(crate) mod cpu;
pub(crate) mod cuda;

/// nanochat's eps, 2⁻²³: the machine epsilon of f32, which PyTorch uses by default.
pub const EPS: f32 = f32::EPSILON;

impl Tape {
    /// x (.., C) -> (.., C): normalizes the last dimension.
    #[track_caller]
    pub fn rms_norm(&self, x: &Tensor, eps: f32) -> Tensor {
        let (y, r) = dispatch!(x, forward(x, eps)); // (.., C), (rows)
        let (target, output) = (x.target(), y.clone());
        self.record(&y, &[x], move |dy, grads| {
            grads.accumulate(&target, |dx, beta| dispatch!(dy, backward(dx, beta, dy, &output, &r)));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use super::EPS;
    use crate::Tape;
    use crate::testing::{assert_gpu_agrees, gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences() {
        for eps in [EPS, 0.5] {
            gradcheck(&[randn(&[3, 5], 0)], |tape, v| tape.rms_norm(&v[0], eps));
        }
    }

    #[test]
    fn rows_have_mean_square_one() {
        let y = Tape::off().rms_norm(&randn(&[7, 40], 1), EPS);
        for row in y.data().chunks(40) {
            let mean_square = row.iter().map(|v| v * v).sum::<f32>() / 40.0;
            assert!((mean_square - 1.0).abs() < 1e-5, "{mean_square}");
        }
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        for shape in [[1, 8], [7, 40], [33, 1_280], [5, 4_096]] {
            for eps in [EPS, 0.5] {
                assert_gpu_agrees(&[randn(&shape, 0)], 1, |tape, v| tape.rms_norm(&v[0], eps));
            }
        }
    }
}
