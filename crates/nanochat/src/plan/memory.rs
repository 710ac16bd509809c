//! The memory of a device during training, by use.

use nanochat_tensor::ops::{GPU_LOGIT_ROWS, cpu_logit_rows};
use serde::Serialize;

use crate::model::config::{GptConfig, Recompute};
use crate::model::gpt::WeightRole;

/// Bytes on each device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    pub weights: f64,
    pub gradients: f64,
    pub optimizer: f64,
    pub activations: f64,
    pub logits: f64,
}

impl Memory {
    /// Computes the memory with bf16 compute. All weights are float32; matrices also have a bf16 copy for products. The
    /// optimizer state is sharded over `world_size` devices. Besides its chunk of logits the loss holds the gradients
    /// of its micro-step. Measured on an H200, d20 at batch 32: 40.5 GiB, where this returns 40.3.
    pub fn gpu(model: &GptConfig, device_batch: usize, world_size: usize, recompute: Recompute) -> Memory {
        let (head, tokens) = (model.params_of(WeightRole::Unembedding), device_batch * model.sequence_len);
        let multiplying = model.params() - model.params_of(WeightRole::Embedding);
        Memory {
            weights: (4 * model.params() + 2 * multiplying) as f64,
            gradients: (4 * model.params()) as f64,
            optimizer: (4 * model.optimizer_state()) as f64 / world_size as f64,
            activations: 2.0 * model.kept_values(tokens, recompute),
            logits: (2 * model.vocab_size * GPU_LOGIT_ROWS.min(tokens) + 4 * head + 2 * tokens * model.n_embd)
                as f64,
        }
    }

    /// Computes the memory in float32, except for the loss: its chunk of logits and two copies of `lm_head`, laid out
    /// for products, are bf16. It holds the `lm_head` gradient of its own micro-step beside the sum. `--precision f32`
    /// takes less.
    pub fn cpu(model: &GptConfig, device_batch: usize, world_size: usize, recompute: Recompute) -> Memory {
        let (head, tokens) = (model.params_of(WeightRole::Unembedding), device_batch * model.sequence_len);
        let rows = cpu_logit_rows(model.vocab_size).min(tokens);
        Memory {
            weights: (4 * model.params()) as f64,
            gradients: (4 * model.params()) as f64,
            optimizer: (4 * model.optimizer_state()) as f64 / world_size as f64,
            activations: 4.0 * model.kept_values(tokens, recompute),
            logits: (2 * rows * model.vocab_size + 8 * head) as f64,
        }
    }

    pub fn total(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.logits
    }
}
