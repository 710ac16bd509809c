//! y = max(x, 0)².  dx = 2 · max(x, 0) · dy

use crate::device::dispatch;
use crate::{Tape, Tensor};

mod cpu;
mod cuda;

/// x (..) -> (..)
pub(super) fn forward(x: &Tensor) -> Tensor {
    dispatch!(x, forward(x))
}

/// Turns dy into dx where it lies, given the output alone: its root is max(x, 0).
pub(super) fn backward_from_output(dy: &mut Tensor, y: &Tensor) {
    dispatch!(y, backward_from_output(dy, y));
}

impl Tape {
    /// x (..) -> (..)
    pub fn relu_squared(&self, x: &Tensor) -> Tensor {
        let y = forward(x);
        let x = x.clone();
        self.record(&y, move |dy, grads| {
            grads.accumulate(&x.target(), |dx, beta| dispatch!(dy, backward(dx, beta, &x, dy)));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_gpu_agrees, gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[4, 5], 0)], |tape, v| tape.relu_squared(&v[0]));
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        assert_gpu_agrees(&[randn(&[37, 72], 0)], 1, |tape, v| tape.relu_squared(&v[0]));
    }
}
