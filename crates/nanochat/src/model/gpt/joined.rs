//! The weights for generation on a GPU: in bf16, with c_q, c_k and c_v joined into one matrix, so that one product
//! computes queries, keys and values.
//!
//! Refreshing them from a changed model keeps their addresses, so that a CUDA graph that refers to them sees the new
//! values.

use std::sync::Arc;

use nanochat_tensor::{RotaryTable, Tensor};

use super::weights::{Layer, Weights};
use super::{Gpt, GptConfig};

pub struct JoinedWeights {
    pub config: GptConfig,
    /// The weights in bf16; `qkv` of a layer is ((H + 2·KVH)·D, C).
    pub weights: Weights<Tensor, 1>,
    pub rotary: Arc<RotaryTable>,
}

impl JoinedWeights {
    /// Copies the weights of a model on a GPU, rounded to bf16.
    pub fn new(model: &Gpt) -> JoinedWeights {
        let config = model.config;
        let rounded = parts(model).each().map(|parts| Tensor::rounded(parts)).collect::<Vec<_>>();
        let weights = Weights::from_each(&config, rounded);
        JoinedWeights { config, weights, rotary: model.rotary().clone() }
    }

    /// Overwrites the values with those of a model of the same sizes.
    #[track_caller]
    pub fn refresh(&mut self, model: &Gpt) {
        assert_eq!(self.config, model.config, "the weights of another model");
        for (joined, parts) in self.weights.each_mut().zip(parts(model).each()) {
            joined.set_rounded(parts);
        }
    }
}

/// Returns, for each joined weight, the weights whose rows it holds.
fn parts<'a>(model: &'a Gpt) -> Weights<Vec<&'a Tensor>, 1> {
    let layer = |layer: &'a Layer| Layer {
        qkv: [layer.qkv.iter().collect()],
        attn_proj: vec![&layer.attn_proj],
        c_fc: vec![&layer.c_fc],
        mlp_proj: vec![&layer.mlp_proj],
    };
    let Weights { wte, layers, lm_head } = &model.weights;
    Weights { wte: vec![wte], layers: layers.iter().map(layer).collect(), lm_head: vec![lm_head] }
}
