//! The sizes of a model: its parameters, FLOPs per token and activations kept per layer, counted from the list of
//! weights and the ops of the trunk. The training horizon, the plan and the MFU use them.

use super::GptConfig;
use super::weights::{WeightRole, Weights};
use crate::model::config::Recompute;

impl GptConfig {
    pub fn params(&self) -> usize {
        Weights::of(self).each().map(|weight| weight.len()).sum()
    }

    /// Returns the number of parameters of one role; those of `Matrix` are trained by Muon.
    pub fn params_of(&self, role: WeightRole) -> usize {
        Weights::of(self).each().filter(|weight| weight.role == role).map(|weight| weight.len()).sum()
    }

    /// Returns the number of values in the optimizer state.
    pub fn optimizer_state(&self) -> usize {
        Weights::of(self).each().map(|weight| weight.len() * weight.role.rule().state_names().len()).sum()
    }

    /// Returns the training FLOPs per token: 6 for every parameter of a matrix product (all but the embedding), and 12
    /// · n_layer · n_head · head_dim · T for attention.
    pub fn flops_per_token(&self) -> f64 {
        let multiplying = self.params() - self.params_of(WeightRole::Embedding);
        6.0 * multiplying as f64
            + 12.0 * (self.n_layer * self.n_head * self.head_dim() * self.sequence_len) as f64
    }

    /// Returns the recomputed FLOPs per token, which do not count as useful.
    pub fn recomputed_flops_per_token(&self, recompute: Recompute) -> f64 {
        let (c, attention) = (self.n_embd, 4 * self.n_layer * self.n_embd * self.sequence_len);
        match recompute {
            Recompute::None => 0.0,
            Recompute::Mlp => 2.0 * (8 * self.n_layer * c * c) as f64,
            Recompute::Block => 2.0 * self.params_of(WeightRole::Matrix) as f64 + attention as f64,
        }
    }

    /// Returns the number of values that all layers keep for the backward pass of a micro-batch of `tokens`, including
    /// the layer being recomputed and the two norms outside the layers.
    pub fn kept_values(&self, tokens: usize, recompute: Recompute) -> f64 {
        let kept = KeptValues::of(self);
        let units = self.n_layer as f64 * kept.a_layer(recompute) + kept.again(recompute) + 2.0;
        units * (tokens * self.n_embd) as f64
    }
}

/// The values that a layer keeps for the backward pass, in units of B·T·C.
#[derive(Clone, Copy)]
pub struct KeptValues {
    attention: f64,
    mlp: f64,
}

impl KeptValues {
    /// Counts the values of a layer: for attention the norm's output, q, k, v and the attention's output, and for the
    /// MLP the norm's output and relu²'s (4 C). That is 10 if every query head has its own key-value head.
    pub fn of(config: &GptConfig) -> KeptValues {
        let keys_and_values = 2.0 * config.kv_dim() as f64 / config.n_embd as f64;
        KeptValues { attention: 3.0 + keys_and_values, mlp: 5.0 }
    }

    /// Returns the number of values that one layer keeps, in units of B·T·C. A recomputed part keeps only its input.
    pub fn a_layer(self, recompute: Recompute) -> f64 {
        match recompute {
            Recompute::None => self.attention + self.mlp,
            Recompute::Mlp => self.attention + 1.0,
            Recompute::Block => 1.0,
        }
    }

    /// Returns the additional values that exist while the backward pass recomputes one layer.
    fn again(self, recompute: Recompute) -> f64 {
        match recompute {
            Recompute::None => 0.0,
            Recompute::Mlp => self.mlp,
            Recompute::Block => self.attention + self.mlp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_exact() {
        let millions = |depth| {
            (GptConfig::from_depth(depth, 65_536, 2_048).unwrap().params() as f64 / 1e5).round() / 10.0
        };
        let table = [
            (4, 36.7),
            (6, 60.9),
            (8, 92.3),
            (10, 133.0),
            (12, 185.6),
            (16, 335.5),
            (20, 561.0),
            (26, 1082.0),
            (32, 1879.0),
        ];
        for (depth, expected) in table {
            assert_eq!(millions(depth), expected, "d{depth}");
        }
    }
}
