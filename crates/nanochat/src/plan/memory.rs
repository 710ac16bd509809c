//! What lies in a device's memory during training, by part.

use serde::Serialize;

use crate::config::GptConfig;

/// Values a layer keeps for the backward pass, in units of B·T·C: q, k, v and the attention's output (4), the
/// MLP's hidden values (4), and the inputs of its two norms (2). What the norms and relu² give is recomputed.
const ACTIVATIONS_A_LAYER: usize = 10;
/// Rows of logits that exist at a time on a GPU.
const GPU_LOGIT_ROWS: usize = 4_096;
/// Logits that exist at a time on the CPU, as in its `linear_softcap_cross_entropy`.
const CPU_LOGITS: usize = 4 << 20;

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
    /// bf16 compute. All weights are float32; matrices and `lm_head` have a bf16 copy to multiply with. Muon
    /// keeps one buffer, AdamW two, shared out among `world_size` devices. Beside its chunk of logits the loss
    /// holds the gradients of its micro-step. Measured on an H200, d20 at batch 32: 40.5 GiB where this says 40.0.
    pub fn gpu(model: &GptConfig, device_batch: usize, world_size: usize) -> Memory {
        let (matrices, head) = (model.matrix_params(), model.embedding_params());
        let (wte, tokens) = (head, device_batch * model.sequence_len);
        Memory {
            weights: ((4 + 2) * (matrices + head) + 4 * wte) as f64,
            gradients: (4 * (matrices + head + wte)) as f64,
            optimizer: (4 * matrices + 2 * 4 * (head + wte)) as f64 / world_size as f64,
            activations: 2.0 * activations(model, device_batch),
            logits: (2 * model.vocab_size * GPU_LOGIT_ROWS.min(tokens) + 4 * head + 2 * tokens * model.n_embd)
                as f64,
        }
    }

    /// All in float32. The loss holds `lm_head`'s gradient of its own micro-step beside the sum.
    pub fn cpu(model: &GptConfig, device_batch: usize, world_size: usize) -> Memory {
        let (matrices, embeddings) = (model.matrix_params(), 2 * model.embedding_params());
        let rows = (CPU_LOGITS / model.vocab_size).clamp(16, 1_024).min(device_batch * model.sequence_len);
        Memory {
            weights: (4 * model.params()) as f64,
            gradients: (4 * model.params()) as f64,
            optimizer: (4 * (matrices + 2 * embeddings)) as f64 / world_size as f64,
            activations: 4.0 * activations(model, device_batch),
            logits: (4 * (rows * model.vocab_size + model.embedding_params())) as f64,
        }
    }

    pub fn total(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.logits
    }
}

/// Values of all layers: 10·B·T·C each.
fn activations(model: &GptConfig, device_batch: usize) -> f64 {
    let values_a_token = ACTIVATIONS_A_LAYER * model.n_layer * model.n_embd;
    values_a_token as f64 * model.sequence_len as f64 * device_batch as f64
}
