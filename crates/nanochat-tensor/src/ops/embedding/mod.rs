//! Rows of a table: y[n] = wte[ids[n]].  dwte[id] = Σ dy[n] over all n with ids[n] = id

use crate::{Tape, Tensor};

mod cpu;

impl Tape {
    /// ids (N), wte (V, C) -> (N, C)
    #[track_caller]
    pub fn embedding(&self, ids: &[u32], wte: &Tensor) -> Tensor {
        let vocab_size = wte.rows();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            panic!("token {id} is outside the vocabulary of {vocab_size}");
        }
        let y = Tensor::new(cpu::forward(ids, wte), &[ids.len(), wte.cols()]);
        let (ids, wte) = (ids.to_vec(), wte.clone());
        self.record(&y, move |dy, grads| {
            grads.accumulate(&wte, |dwte, _| cpu::backward(dwte, &ids, dy));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences_with_a_repeated_token() {
        gradcheck(&[randn(&[5, 3], 0)], |tape, v| tape.embedding(&[1, 4, 1, 0, 2, 3], &v[0]));
    }
}
