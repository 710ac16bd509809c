//! y = x + branch.  Both get dy.

use crate::{Tape, Tensor, simd};

impl Tape {
    /// x (..), branch (..) -> (..)
    #[track_caller]
    pub fn residual_add(&self, x: &Tensor, branch: &Tensor) -> Tensor {
        assert_eq!(x.shape(), branch.shape(), "residual_add: shapes differ");
        let mut y = x.data().to_vec();
        simd::add_assign(&mut y, branch.data());
        let y = Tensor::new(y, x.shape());
        let (x, branch) = (x.clone(), branch.clone());
        self.record(&y, move |dy, grads| {
            grads.add(&x, dy.clone());
            grads.add(&branch, dy.clone());
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[2, 3], 0), randn(&[2, 3], 1)], |tape, v| tape.residual_add(&v[0], &v[1]));
    }

    #[test]
    fn a_tensor_added_to_itself_gets_both_gradients() {
        gradcheck(&[randn(&[2, 3], 0)], |tape, v| tape.residual_add(&v[0], &v[0]));
    }
}
