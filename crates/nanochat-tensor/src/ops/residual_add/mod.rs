//! y = x + branch.  Both get dy.

use crate::elementwise;
use crate::{Tape, Tensor};

impl Tape {
    /// x (..), branch (..) -> (..)
    #[track_caller]
    pub fn residual_add(&self, x: &Tensor, branch: &Tensor) -> Tensor {
        assert_eq!(x.shape(), branch.shape(), "residual_add: shapes differ");
        let y = elementwise::sum(x, branch);
        let targets = [x, branch].map(Tensor::target);
        self.record(&y, &[x, branch], move |dy, grads| {
            targets.iter().for_each(|target| grads.add_to(target, dy.clone()));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_gpu_agrees, gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[2, 3], 0), randn(&[2, 3], 1)], |tape, v| tape.residual_add(&v[0], &v[1]));
    }

    #[test]
    fn a_tensor_added_to_itself_gets_both_gradients() {
        gradcheck(&[randn(&[2, 3], 0)], |tape, v| tape.residual_add(&v[0], &v[0]));
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        let inputs = [randn(&[7, 13], 0), randn(&[7, 13], 1)];
        assert_gpu_agrees(&inputs, 2, |tape, v| tape.residual_add(&v[0], &v[1]));
    }
}
