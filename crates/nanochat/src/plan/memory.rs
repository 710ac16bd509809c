//! What lies in a device's memory during training, by part.

use serde::Serialize;

use crate::config::{GptConfig, Recompute};

/// Rows of logits that exist at a time on a GPU.
const GPU_LOGIT_ROWS: usize = 4_096;
/// Logits that exist at a time on the CPU, in bf16, as in its `linear_softcap_cross_entropy`.
const CPU_LOGITS: usize = 32 << 20;

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
    /// holds the gradients of its micro-step. Measured on an H200, d20 at batch 32: 40.5 GiB where this says 40.3.
    pub fn gpu(model: &GptConfig, device_batch: usize, world_size: usize, recompute: Recompute) -> Memory {
        let (matrices, head) = (model.matrix_params(), model.embedding_params());
        let (wte, tokens) = (head, device_batch * model.sequence_len);
        Memory {
            weights: ((4 + 2) * (matrices + head) + 4 * wte) as f64,
            gradients: (4 * (matrices + head + wte)) as f64,
            optimizer: (4 * matrices + 2 * 4 * (head + wte)) as f64 / world_size as f64,
            activations: 2.0 * activations(model, device_batch, Kept::of(model), recompute),
            logits: (2 * model.vocab_size * GPU_LOGIT_ROWS.min(tokens) + 4 * head + 2 * tokens * model.n_embd)
                as f64,
        }
    }

    /// All in float32, but for the loss: of bf16 are its chunk of logits and two copies of `lm_head` laid out to multiply
    /// with. It holds `lm_head`'s gradient of its own micro-step beside the sum. `--precision f32` takes less.
    pub fn cpu(model: &GptConfig, device_batch: usize, world_size: usize, recompute: Recompute) -> Memory {
        let (matrices, embeddings) = (model.matrix_params(), 2 * model.embedding_params());
        let rows = (CPU_LOGITS / model.vocab_size).clamp(48, 1_024).min(device_batch * model.sequence_len);
        Memory {
            weights: (4 * model.params()) as f64,
            gradients: (4 * model.params()) as f64,
            optimizer: (4 * (matrices + 2 * embeddings)) as f64 / world_size as f64,
            activations: 4.0 * activations(model, device_batch, Kept::of(model), recompute),
            logits: (2 * rows * model.vocab_size + 8 * model.embedding_params()) as f64,
        }
    }

    pub fn total(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.logits
    }
}

/// Values a layer keeps for the backward pass, in units of B·T·C.
#[derive(Clone, Copy)]
pub struct Kept {
    attention: f64,
    mlp: f64,
}

impl Kept {
    /// The norm's output, q, k, v and the attention's output; the norm's output and relu²'s (4 C). That is 10
    /// where every head has keys of its own.
    pub fn of(model: &GptConfig) -> Kept {
        let keys_and_values = 2.0 * model.kv_dim() as f64 / model.n_embd as f64;
        Kept { attention: 3.0 + keys_and_values, mlp: 5.0 }
    }

    /// Of one layer. What is recomputed keeps its input alone.
    pub fn a_layer(self, recompute: Recompute) -> f64 {
        match recompute {
            Recompute::None => self.attention + self.mlp,
            Recompute::Mlp => self.attention + 1.0,
            Recompute::Block => 1.0,
        }
    }

    /// Of the layer that backward has come to and runs again.
    fn replayed(self, recompute: Recompute) -> f64 {
        match recompute {
            Recompute::None => 0.0,
            Recompute::Mlp => self.mlp,
            Recompute::Block => self.attention + self.mlp,
        }
    }
}

/// Values of all layers, the one that is replayed, and the two norms outside of them.
fn activations(model: &GptConfig, device_batch: usize, kept: Kept, recompute: Recompute) -> f64 {
    let units = model.n_layer as f64 * kept.a_layer(recompute) + kept.replayed(recompute) + 2.0;
    units * (device_batch * model.sequence_len) as f64 * model.n_embd as f64
}
