//! Looks up rows of a table: y[n] = wte[ids[n]].  dwte[id] = Σ dy[n] over all n with ids[n] = id

use crate::{Tape, Tensor};

mod cpu;
mod cuda;

impl Tape {
    /// ids (N), wte (V, C) -> (N, C)
    #[track_caller]
    pub fn embedding(&self, ids: &[u32], wte: &Tensor) -> Tensor {
        let vocab_size = wte.rows();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            panic!("token {id} is outside the vocabulary of {vocab_size}");
        }
        let y = dispatch!(wte, forward(ids, wte));
        let (ids, target) = (ids.to_vec(), wte.target());
        self.record(&y, &[wte], move |dy, grads| {
            grads.accumulate(&target, |dwte, beta| dispatch!(dy, backward(dwte, beta, &ids, dy)));
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_gpu_agrees, gradcheck, randn};

    #[test]
    fn gradient_matches_finite_differences_with_a_repeated_token() {
        gradcheck(&[randn(&[5, 3], 0)], |tape, v| tape.embedding(&[1, 4, 1, 0, 2, 3], &v[0]));
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        let ids: Vec<u32> = (0..500).map(|n| n * n % 41).collect();
        for ids in [&ids[..], &ids[..1]] {
            assert_gpu_agrees(&[randn(&[50, 72], 0)], 0, |tape, v| tape.embedding(ids, &v[0]));
        }
    }
}
