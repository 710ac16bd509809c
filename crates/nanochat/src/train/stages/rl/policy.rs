//! The policy gradient as a weighted cross-entropy: each sampled token's nll gets the weight that gives the gradient of
//! the objective, so that training can use the step that all stages share.
//!
//! With A = reward − mean reward of the question, r = π(token) / π_old(token), d = log π_ref − log π:
//! loss = −min(r · A, clip(r, 1 − ε, 1 + ε) · A) + β · (eᵈ − d − 1). Its derivative by nll is r · A, or 0 where
//! the clip holds (PPO, Schulman et al. 2017), plus β · (eᵈ − 1) (the KL estimator of GRPO, Shao et al. 2024).
//! On policy r = 1, and without clip and KL A alone is left: REINFORCE with the question's mean as baseline.

use nanochat_tensor::Tape;

use crate::model::batch::Batch;
use crate::model::gpt::Gpt;

/// The coefficients of the objective; 0 turns a part off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Objective {
    pub clip_ratio: f32,
    pub kl_coef: f32,
}

/// The log-probabilities of one token.
#[derive(Clone, Copy, Debug)]
struct LogProbs {
    now: f32,
    old: f32,
    reference: f32,
}

impl Objective {
    fn weight(&self, advantage: f32, LogProbs { now, old, reference }: LogProbs) -> f32 {
        let ratio = (now - old).exp();
        let too_far = match advantage > 0.0 {
            true => ratio > 1.0 + self.clip_ratio,
            false => ratio < 1.0 - self.clip_ratio,
        };
        let gain = if self.clip_ratio > 0.0 && too_far { 0.0 } else { ratio * advantage };
        gain + self.kl_coef * ((reference - now).exp() - 1.0)
    }

    /// Replaces the advantages in the batch's weights by the weights of the loss. `sampled` (B·T) marks the tokens that
    /// count; `old` and `reference` (B·T) are their nll under the model that sampled them and under the reference
    /// model.
    pub fn reweigh(&self, model: &Gpt, batch: &mut Batch, sampled: &[bool], old: &[f32], reference: &[f32]) {
        let now = nll(model, batch, sampled);
        for (i, weight) in batch.weights.iter_mut().enumerate().filter(|(i, _)| sampled[*i]) {
            *weight = self.weight(*weight, LogProbs { now: -now[i], old: -old[i], reference: -reference[i] });
        }
    }
}

/// Returns the nll (B·T) of the sampled tokens of a batch.
pub fn nll(model: &Gpt, batch: &Batch, sampled: &[bool]) -> Vec<f32> {
    let weights = sampled.iter().map(|&sampled| if sampled { 1.0 } else { 0.0 }).collect();
    let (_, nll) = model.loss_sum(&Tape::off(), &Batch { weights, ..batch.clone() });
    nll.host().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the loss of one token by the formula at the top of this file.
    fn loss(objective: Objective, advantage: f32, nll: f32, old: f32, reference: f32) -> f32 {
        let ratio = (-nll - old).exp();
        let clipped = match objective.clip_ratio {
            0.0 => ratio,
            clip => ratio.clamp(1.0 - clip, 1.0 + clip),
        };
        let d = reference + nll;
        objective.kl_coef * (d.exp() - d - 1.0) - (ratio * advantage).min(clipped * advantage)
    }

    #[test]
    fn weights_are_the_derivative_of_the_loss() {
        let objectives = [(0.0, 0.0), (0.2, 0.0), (0.0, 0.1), (0.2, 0.1)];
        for (clip_ratio, kl_coef) in objectives {
            let objective = Objective { clip_ratio, kl_coef };
            for (advantage, now, old, reference) in [
                (0.7, -1.0, -1.0, -1.3),
                (0.7, -1.0, -1.5, -0.9),
                (-0.5, -2.0, -1.5, -2.0),
                (-0.5, -1.0, -1.5, -3.0),
            ] {
                let weight = objective.weight(advantage, LogProbs { now, old, reference });
                let at = |nll| loss(objective, advantage, nll, old, reference);
                let slope = (at(-now + 1e-2) - at(-now - 1e-2)) / 2e-2;
                assert!((weight - slope).abs() < 2e-3, "{objective:?}: {weight} {slope}");
            }
        }
        let same = LogProbs { now: -1.0, old: -1.0, reference: -1.0 };
        assert_eq!(Objective { clip_ratio: 0.2, kl_coef: 0.1 }.weight(0.25, same), 0.25);
    }
}
