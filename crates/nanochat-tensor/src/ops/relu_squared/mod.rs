//! y = max(x, 0)².  dx = 2 · max(x, 0) · dy

use crate::{Tape, Tensor};

mod cpu;

impl Tape {
    /// x (..) -> (..)
    pub fn relu_squared(&self, x: &Tensor) -> Tensor {
        let y = Tensor::new(cpu::forward(x.data()), x.shape());
        let x = x.clone();
        self.record(&y, move |dy, grads| {
            grads.accumulate(&x, |dx, _| cpu::backward(dx, x.data(), dy.data()));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[4, 5], 0)], |tape, v| tape.relu_squared(&v[0]));
    }
}
