//! y = x wᵀ, no bias.  dx = dy w,  dw = dyᵀ x

use crate::{Tape, Tensor};

mod cpu;

impl Tape {
    /// x (.., in), w (out, in) -> (.., out)
    #[track_caller]
    pub fn linear(&self, x: &Tensor, w: &Tensor) -> Tensor {
        assert_eq!(x.cols(), w.cols(), "linear: x {:?} does not match w {:?}", x.shape(), w.shape());
        let mut shape = x.shape().to_vec();
        *shape.last_mut().expect("linear: x has no dimensions") = w.rows();
        let y = Tensor::new(cpu::forward(x, w), &shape);
        let (x, w) = (x.clone(), w.clone());
        self.record(&y, move |dy, grads| {
            grads.accumulate(&x, |dx, beta| cpu::backward_input(dx, beta, dy, &w));
            grads.accumulate(&w, |dw, beta| cpu::backward_weight(dw, beta, dy, &x));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, gradcheck, randn};
    use crate::{Tape, Tensor};

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[3, 5], 0), randn(&[4, 5], 1)], |tape, v| tape.linear(&v[0], &v[1]));
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
    fn a_shape_bug_is_reported_at_the_line_of_the_model() {
        let message = std::panic::catch_unwind(|| Tape::off().linear(&randn(&[2, 3], 0), &randn(&[4, 5], 1)));
        let message = *message.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("x [2, 3] does not match w [4, 5]"), "{message}");
    }
}
