//! The optimizer of each weight: Muon for the matrices inside the layers, AdamW for embedding and head (nanochat's
//! split).

use serde::{Deserialize, Serialize};

use super::GptConfig;
use super::weights::WeightRole;
use crate::terminal::flag_values;

/// The default learning rate of the matrices.
pub const MATRIX_LR: f64 = 0.02;
/// The default learning rate of the embedding.
pub const EMBEDDING_LR: f64 = 0.2;
/// The default learning rate of the head.
pub const UNEMBEDDING_LR: f64 = 0.004;

/// Learning rates before the schedule. Those of embedding and head are for n_embd 768 and are scaled
/// by (n_embd / 768)^−½.
#[derive(Clone, Copy, Debug, clap::Args, Serialize, Deserialize)]
pub struct Rates {
    /// Learning rate of the matrices (Muon)
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = MATRIX_LR as f32)]
    pub matrix_lr: f32,
    /// Learning rate of the embedding (AdamW)
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = EMBEDDING_LR as f32)]
    pub embedding_lr: f32,
    /// Learning rate of the head (AdamW)
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = UNEMBEDDING_LR as f32)]
    pub unembedding_lr: f32,
    /// Weight decay of embedding and head
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 0.0)]
    pub weight_decay: f32,
}

/// The rule by which weights are updated, with its constants.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    AdamW { betas: (f32, f32), eps: f32 },
    Muon,
}

impl Rule {
    /// Returns the names, as in checkpoints, of a weight's optimizer state tensors. Each has the shape of the weight.
    pub fn state_names(self) -> &'static [&'static str] {
        match self {
            Rule::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            Rule::Muon => &["momentum_buffer"],
        }
    }
}

/// A group of weights with the same optimizer and learning rate.
#[derive(Clone, Copy, Debug)]
pub struct ParamGroup {
    pub rule: Rule,
    /// Learning rate before the schedule.
    pub lr: f32,
    pub weight_decay: f32,
}

impl WeightRole {
    pub fn rule(self) -> Rule {
        match self {
            WeightRole::Embedding | WeightRole::Unembedding => Rule::AdamW { betas: (0.8, 0.95), eps: 1e-10 },
            WeightRole::Matrix => Rule::Muon,
        }
    }

    /// Returns the parameter group of a model's weights of this role.
    pub fn group(self, config: &GptConfig, rates: &Rates) -> ParamGroup {
        let dmodel_scale = (config.n_embd as f32 / 768.0).powf(-0.5);
        let (lr, weight_decay) = match self {
            WeightRole::Embedding => (rates.embedding_lr * dmodel_scale, rates.weight_decay),
            WeightRole::Unembedding => (rates.unembedding_lr * dmodel_scale, rates.weight_decay),
            WeightRole::Matrix => (rates.matrix_lr, 0.0),
        };
        ParamGroup { rule: self.rule(), lr, weight_decay }
    }
}
