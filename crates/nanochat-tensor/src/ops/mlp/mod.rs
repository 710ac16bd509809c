//! y = residual + relu²(x · c_fcᵀ) · c_projᵀ, where relu²(h) = max(h, 0)².
//!
//! Only relu²'s output is kept between the two products, 4 C of the 10 C values a token and layer: its root, max(h, 0),
//! is all of h that the backward pass needs. On the CPU relu² and its derivative are applied to rows that a product has
//! just made, while they are in the cache.

use crate::ops::linear;
use crate::{Tape, Tensor};

mod cpu;
mod cuda;

impl Tape {
    /// residual (.., C), x (.., C), c_fc (4C, C), c_proj (C, 4C) -> (.., C)
    #[track_caller]
    pub fn mlp(&self, residual: &Tensor, x: &Tensor, c_fc: &Tensor, c_proj: &Tensor) -> Tensor {
        assert_eq!(x.cols(), c_fc.cols(), "mlp: x {:?} does not match c_fc {:?}", x.shape(), c_fc.shape());
        assert_eq!(
            c_fc.rows(),
            c_proj.cols(),
            "mlp: c_fc {:?} does not match c_proj {:?}",
            c_fc.shape(),
            c_proj.shape()
        );
        let products = self.recipe.products;
        let activated = dispatch!(x, forward_hidden(x, c_fc; products)); // (.., 4C)
        let y = linear::forward_add(residual, &activated, c_proj, products);
        let inputs = [residual, x, c_fc, c_proj];
        let (residual, x, c_fc, c_proj) = (residual.target(), x.clone(), c_fc.clone(), c_proj.clone());
        self.record(&y, &inputs, move |dy, grads| {
            let dh = dispatch!(dy, backward_hidden(dy, &c_proj, &activated; products));
            linear::add_weight_gradient(dy, &activated, &c_proj.target(), grads, products);
            drop(activated);
            linear::backward(&dh, &x, &c_fc, grads, products);
            grads.add_to(&residual, dy.clone());
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        BF16_TOLERANCE, assert_close, assert_gpu_agrees, assert_relative, gradcheck, randn,
    };
    use crate::{Grads, Recipe, Tape, Tensor};

    fn inputs(rows: usize, c: usize) -> [Tensor; 4] {
        [([rows, c], 0), ([rows, c], 1), ([4 * c, c], 2), ([c, 4 * c], 3)]
            .map(|(shape, seed)| randn(&shape, seed))
    }

    fn mlp(tape: &Tape, v: &[Tensor]) -> Tensor {
        tape.mlp(&v[0], &v[1], &v[2], &v[3])
    }

    #[test]
    fn values_are_those_of_plain_loops() {
        for rows in [3, 20] {
            let [residual, x, c_fc, c_proj] = inputs(rows, 5);
            let times = |x: &[f32], w: &Tensor| -> Vec<f32> {
                let row = |x: &[f32]| -> Vec<f32> {
                    w.data().chunks(w.cols()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
                };
                x.chunks(w.cols()).flat_map(row).collect()
            };
            let activated: Vec<f32> = times(x.data(), &c_fc).iter().map(|h| h.max(0.0).powi(2)).collect();
            let want: Vec<f32> =
                residual.data().iter().zip(times(&activated, &c_proj)).map(|(r, y)| r + y).collect();
            assert_close(Tape::off().mlp(&residual, &x, &c_fc, &c_proj).data(), &want, 1e-4);
        }
    }

    #[test]
    fn gradient_matches_finite_differences() {
        for rows in [4, 20] {
            gradcheck(&inputs(rows, 3), mlp);
        }
    }

    #[test]
    fn in_bf16_values_and_gradients_stay_within_its_rounding() {
        let inputs = inputs(300, 40);
        let run = |recipe| {
            let (tape, mut grads) = (Tape::computing(recipe), Grads::default());
            let y = mlp(&tape, &inputs);
            grads.add(&y, randn(y.shape(), 4));
            tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads);
            let gradients = inputs.iter().map(|input| grads.get(input).unwrap().clone());
            [y].into_iter().chain(gradients).collect::<Vec<_>>()
        };
        for (want, got) in run(Recipe::F32).iter().zip(&run(Recipe::BF16_PRODUCTS)) {
            assert_relative("y or a gradient", got.data(), want.data(), BF16_TOLERANCE);
        }
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        for (rows, c) in [(1, 8), (33, 72), (300, 128), (2_048, 256)] {
            assert_gpu_agrees(&inputs(rows, c), 2, mlp);
        }
    }
}
