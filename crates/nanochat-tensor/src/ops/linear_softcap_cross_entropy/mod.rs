//! The model's head and its loss in one op, computed in chunks of rows, so that the logits of a whole batch, by far the
//! largest tensor of a language model, never exist at once.
//!
//! z = x wᵀ,  c = 15 · tanh(z / 15),  nll = logsumexp(c) − c[target],  loss = Σ weight · nll
//! dc = weight · (softmax(c) − onehot),  dz = dc · (1 − (c / 15)²),  dx = dz w,  dw = dzᵀ x

use crate::{Tape, Tensor};

mod bf16;
mod cpu;
mod cuda;
mod segments;

/// Logits are squashed into ±SOFTCAP (Gemma 2's final softcap).
pub const SOFTCAP: f32 = 15.0;

/// The number of rows of logits that a GPU holds at a time in training.
pub const GPU_LOGIT_ROWS: usize = cuda::CHUNK_ROWS;

/// The number of logits that the CPU holds at a time in training in bf16 with a large vocabulary.
pub const CPU_LOGITS: usize = segments::CHUNK_LOGITS;

/// Returns the number of rows of logits that the CPU holds at a time in training in bf16.
pub fn cpu_logit_rows(vocab_size: usize) -> usize {
    bf16::chunk_rows(vocab_size)
}

/// The results of a forward pass.
struct LossOutput {
    loss: Tensor, // (1)
    nll: Tensor,  // (N)
    /// dx (N, C) and dw (V, C) of the unscaled loss
    gradients: Option<(Tensor, Tensor)>,
}

impl LossOutput {
    /// Makes the output on the CPU, with the loss Σ weight · nll.
    fn new(nll: Vec<f32>, weights: &[f32], gradients: Option<(Tensor, Tensor)>) -> LossOutput {
        let loss =
            nll.iter().zip(weights).map(|(&nll, &w)| f64::from(nll) * f64::from(w)).sum::<f64>() as f32;
        let n = nll.len();
        LossOutput { loss: Tensor::new(vec![loss], &[1]), nll: Tensor::new(nll, &[n]), gradients }
    }
}

/// Applies z -> 15 · tanh(z / 15) to logits (..) in place.
pub fn softcap(logits: &mut [f32]) {
    segments::softcap(logits);
}

/// x (N, C), lm_head (V, C) -> logits (N, V) after the softcap, float32, on x's device: for the few rows that tokens
/// are sampled from.
#[track_caller]
pub fn softcapped_logits(x: &Tensor, lm_head: &Tensor) -> Tensor {
    let mut logits = Tape::off().linear_f32(x, lm_head);
    dispatch!(x, softcap_logits(&mut logits));
    logits
}

impl Tape {
    /// x (N, C), lm_head (V, C), targets (N), weights (N) -> Σ weight · nll (1), nll (N).
    ///
    /// Rows of weight 0 cost nothing and have an nll of 0. Gradients are computed along with the loss, while a chunk's
    /// logits are in memory.
    #[track_caller]
    pub fn linear_softcap_cross_entropy(
        &self,
        x: &Tensor,
        lm_head: &Tensor,
        targets: &[u32],
        weights: &[f32],
    ) -> (Tensor, Tensor) {
        assert_eq!(x.cols(), lm_head.cols(), "loss: x {:?}, lm_head {:?}", x.shape(), lm_head.shape());
        assert_eq!([x.rows(); 2], [targets.len(), weights.len()], "loss: a target and weight for each row");
        if let Some(target) = targets.iter().find(|&&t| t as usize >= lm_head.rows()) {
            panic!("target {target} is outside the vocabulary of {}", lm_head.rows());
        }
        let LossOutput { loss, nll, gradients } =
            dispatch!(x, forward(x, lm_head, targets, weights, self.is_recording(); self.recipe.products));
        let (x_target, lm_head_target) = (x.target(), lm_head.target());
        self.record(&loss, &[x, lm_head], move |dloss, grads| {
            let (scale, (dx, dw)) = (dloss.data()[0], gradients.expect("made while the tape records"));
            grads.add_scaled(&x_target, dx, scale);
            grads.add_scaled(&lm_head_target, dw, scale);
        });
        (loss, nll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{BF16_TOLERANCE, assert_close, assert_relative, gpu, gradcheck, randn};
    use crate::{Device, Grads, Recipe};

    const TARGETS: [u32; 5] = [1, 0, 6, 6, 3];
    const WEIGHTS: [f32; 5] = [1.0, 0.0, 0.5, -2.0, 1.0];

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&[randn(&[5, 4], 0), randn(&[7, 4], 1)], |tape, v| {
            tape.linear_softcap_cross_entropy(&v[0], &v[1], &TARGETS, &WEIGHTS).0
        });
    }

    #[test]
    fn loss_is_the_weighted_sum_of_the_definition() {
        let (x, w) = (randn(&[5, 4], 0), randn(&[7, 4], 1));
        let (loss, nll) = Tape::off().linear_softcap_cross_entropy(&x, &w, &TARGETS, &WEIGHTS);
        let mut logits = Tape::off().linear(&x, &w).data().to_vec();
        logits.iter_mut().for_each(|z| *z = 15.0 * (*z / 15.0).tanh());
        let want: Vec<f32> = (0..5)
            .map(|n| {
                let row = &logits[n * 7..][..7];
                let lse = row.iter().map(|c| c.exp()).sum::<f32>().ln();
                if WEIGHTS[n] == 0.0 { 0.0 } else { lse - row[TARGETS[n] as usize] }
            })
            .collect();
        assert_close(nll.data(), &want, 1e-5);
        let sum: f32 = want.iter().zip(WEIGHTS).map(|(nll, w)| nll * w).sum();
        assert_close(loss.data(), &[sum], 1e-5);
    }

    #[test]
    fn many_chunks_equal_one() {
        let (x, w) = (randn(&[1_100, 6], 0), randn(&[9_000, 6], 1));
        let targets: Vec<u32> = (0..1_100).map(|n| n * 8).collect();
        let run = |rows: std::ops::Range<usize>| {
            let part = Tensor::new(x.data()[rows.start * 6..rows.end * 6].to_vec(), &[rows.len(), 6]);
            Tape::off()
                .linear_softcap_cross_entropy(&part, &w, &targets[rows.clone()], &vec![1.0; rows.len()])
                .1
                .data()
                .to_vec()
        };
        assert_close(&run(0..1_100), &[run(0..1), run(1..350), run(350..1_100)].concat(), 1e-5);
    }

    #[test]
    fn in_bf16_loss_and_gradients_stay_within_its_rounding() {
        for (n, c, v) in [(5, 4, 7), (3, 33, 300), (121, 64, 5_001), (1_100, 16, 1_024)] {
            let (x, w) = (randn(&[n, c], 0), randn(&[v, c], 1));
            let targets: Vec<u32> = (0..n).map(|i| (i * 12 % v) as u32).collect();
            let weights: Vec<f32> = (0..n).map(|i| WEIGHTS[i % 5]).collect();
            let run = |recipe| {
                let (tape, mut grads) = (Tape::computing(recipe), Grads::default());
                let (loss, nll) = tape.linear_softcap_cross_entropy(&x, &w, &targets, &weights);
                tape.backward(&loss, 0.25, &mut grads);
                [loss, nll, grads.get(&x).unwrap().clone(), grads.get(&w).unwrap().clone()]
            };
            let (want, got) = (run(Recipe::F32), run(Recipe::BF16_PRODUCTS));
            for (name, (want, got)) in ["loss", "nll", "dx", "dw"].iter().zip(want.iter().zip(&got)) {
                assert_relative(name, got.data(), want.data(), BF16_TOLERANCE);
            }
        }
    }

    #[test]
    fn softcap_keeps_small_logits_and_bounds_large_ones() {
        let mut logits = [0.0, 0.1, -3.0, 400.0, -1e9];
        softcap(&mut logits);
        assert_close(&logits, &[0.0, 0.099_998_5, -2.960_63, 15.0, -15.0], 1e-5);
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        let Some(device) = gpu() else { return };
        // The last has more rows than the GPU takes at a time.
        for (n, c, v) in [(1, 8, 301), (5, 8, 7), (700, 64, 9_003), (4_500, 64, 512)] {
            let (x, w) = (randn(&[n, c], 0), randn(&[v, c], 1));
            let targets: Vec<u32> = (0..n).map(|i| (i * 12 % v) as u32).collect();
            let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.0, 0.5, -2.0, 1.0][i % 5]).collect();
            let run = |device: &Device| {
                let (x, w) = (x.to_device(device).to_activation(), w.to_device(device));
                let (tape, mut grads) = (Tape::new(), Grads::default());
                let (loss, nll) = tape.linear_softcap_cross_entropy(&x, &w, &targets, &weights);
                tape.backward(&loss, 0.25, &mut grads);
                let grad = |of| grads.get(of).unwrap().host().into_owned();
                [loss.host().into_owned(), nll.host().into_owned(), grad(&x), grad(&w)]
            };
            let (want, got) = (run(&Device::Cpu), run(&device));
            for (name, (want, got)) in ["loss", "nll", "dx", "dw"].iter().zip(want.iter().zip(&got)) {
                assert_relative(name, got, want, BF16_TOLERANCE);
            }
        }
    }
}
