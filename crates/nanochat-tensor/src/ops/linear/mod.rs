//! y = x wᵀ, no bias.  dx = dy w,  dw = dyᵀ x
//!
//! `linear_add` ends attention: the residual is added inside the product.

use crate::tensor::Target;
use crate::{Dtype, Grads, Tape, Tensor};

pub(super) mod cpu;
pub(super) mod cuda;

impl Tape {
    /// x (.., in), w (out, in) -> (.., out)
    #[track_caller]
    pub fn linear(&self, x: &Tensor, w: &Tensor) -> Tensor {
        assert_eq!(x.cols(), w.cols(), "linear: x {:?} does not match w {:?}", x.shape(), w.shape());
        let products = self.recipe.products;
        let y = dispatch!(x, forward(x, w; products));
        let saved = (x.clone(), w.clone());
        self.record(&y, &[x, w], move |dy, grads| backward(dy, &saved.0, &saved.1, grads, products));
        y
    }

    /// Computes `linear` with a float32 result even where activations are bf16: for logits. Not differentiable.
    #[track_caller]
    pub fn linear_f32(&self, x: &Tensor, w: &Tensor) -> Tensor {
        assert!(!self.is_recording(), "linear_f32 has no backward; use Tape::off()");
        assert_eq!(x.cols(), w.cols(), "linear: x {:?} does not match w {:?}", x.shape(), w.shape());
        dispatch!(x, forward_f32(x, w))
    }

    /// residual (.., out) + x (.., in) · w (out, in)ᵀ -> (.., out)
    #[track_caller]
    pub fn linear_add(&self, residual: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
        assert_eq!(x.cols(), w.cols(), "linear: x {:?} does not match w {:?}", x.shape(), w.shape());
        let products = self.recipe.products;
        let y = forward_add(residual, x, w, products);
        let (target, saved) = (residual.target(), (x.clone(), w.clone()));
        self.record(&y, &[residual, x, w], move |dy, grads| {
            backward(dy, &saved.0, &saved.1, grads, products);
            grads.add_to(&target, dy.clone());
        });
        y
    }
}

/// residual (.., out) + x (.., in) · w (out, in)ᵀ -> (.., out)
pub(super) fn forward_add(residual: &Tensor, x: &Tensor, w: &Tensor, products: Dtype) -> Tensor {
    dispatch!(x, forward_add(residual, x, w; products))
}

pub(super) fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, grads: &mut Grads, products: Dtype) {
    grads.accumulate(&x.target(), |dx, beta| dispatch!(dy, backward_input(dx, beta, dy, w; products)));
    add_weight_gradient(dy, x, &w.target(), grads, products);
}

pub(super) fn add_weight_gradient(dy: &Tensor, x: &Tensor, w: &Target, grads: &mut Grads, products: Dtype) {
    grads.accumulate(w, |dw, beta| dispatch!(dy, backward_weight(dw, beta, dy, x; products)));
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        BF16_TOLERANCE, assert_close, assert_gpu_agrees, assert_relative, gpu, gradcheck, randn,
    };
    use crate::{Device, Grads, Recipe, Tape, Tensor};

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[3, 5], 0), randn(&[4, 5], 1)], |tape, v| tape.linear(&v[0], &v[1]));
    }

    #[test]
    fn adding_inside_the_product_equals_plain_ops() {
        let (residual, x, w) = (randn(&[20, 6], 0), randn(&[20, 5], 1), randn(&[6, 5], 2));
        gradcheck(&[residual.clone(), x.clone(), w.clone()], |tape, v| tape.linear_add(&v[0], &v[1], &v[2]));
        let tape = Tape::off();
        let plain = tape.residual_add(&residual, &tape.linear(&x, &w));
        assert_close(tape.linear_add(&residual, &x, &w).data(), plain.data(), 1e-5);
    }

    #[test]
    fn few_rows_take_another_path_to_the_same_values() {
        let (x, w) = (randn(&[40, 96], 0), randn(&[130, 96], 1));
        let y = Tape::off().linear(&x, &w);
        for rows in 1..10 {
            let few = Tensor::new(x.data()[..rows * 96].to_vec(), &[rows, 96]);
            assert_close(Tape::off().linear(&few, &w).data(), &y.data()[..rows * 130], 1e-5);
        }
    }

    #[test]
    fn in_bf16_values_and_gradients_stay_within_its_rounding() {
        let inputs = [randn(&[300, 130], 0), randn(&[70, 130], 1)];
        let run = |recipe| {
            let (tape, mut grads) = (Tape::computing(recipe), Grads::default());
            let y = tape.linear(&inputs[0], &inputs[1]);
            grads.add(&y, randn(y.shape(), 2));
            tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads);
            [y, grads.get(&inputs[0]).unwrap().clone(), grads.get(&inputs[1]).unwrap().clone()]
        };
        for (want, got) in run(Recipe::F32).iter().zip(&run(Recipe::BF16_PRODUCTS)) {
            assert_relative("y, dx or dw", got.data(), want.data(), BF16_TOLERANCE);
        }
    }

    #[test]
    fn a_shape_bug_is_reported_at_the_line_of_the_model() {
        let message = std::panic::catch_unwind(|| Tape::off().linear(&randn(&[2, 3], 0), &randn(&[4, 5], 1)));
        let message = *message.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("x [2, 3] does not match w [4, 5]"), "{message}");
    }

    #[test]
    fn gpu_keeps_logits_in_float32() {
        let Some(device) = gpu() else { return };
        for (rows, inp, out) in [(1, 8, 8), (150, 128, 8), (33, 72, 301)] {
            let (x, w) = (randn(&[rows, inp], 0).to_device(&device).to_activation(), randn(&[out, inp], 1));
            let rounded = w.to_device(&device).to_activation();
            let y = Tape::off().linear_f32(&x, &rounded);
            let [x, w] = [&x, &rounded].map(|t| t.to_device(&Device::Cpu));
            // The tolerance is far below the error of one rounding to bf16.
            assert_close(&y.host(), Tape::off().linear_f32(&x, &w).data(), 1e-5);
        }
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        for (rows, inp, out) in [(1, 8, 8), (33, 72, 40), (300, 128, 256), (2_048, 256, 1_024)] {
            let [x, w, residual] = [[rows, inp], [out, inp], [rows, out]].map(|shape| randn(&shape, 0));
            assert_gpu_agrees(&[x.clone(), w.clone()], 1, |tape, v| tape.linear(&v[0], &v[1]));
            let inputs = [x, residual, w];
            assert_gpu_agrees(&inputs, 2, |tape, v| tape.linear_add(&v[1], &v[0], &v[2]));
        }
    }
}
