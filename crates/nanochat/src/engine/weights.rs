//! The weights as generation on a GPU reads them: bf16, and q, k and v as one matrix, which is one product.
//!
//! Their addresses stay when the model they were made from has changed and they are made anew, so that whatever holds
//! them (a CUDA graph) goes on with the new values.

use std::sync::Arc;

use nanochat_tensor::{RotaryTable, Tensor};

use crate::config::GptConfig;
use crate::gpt::Gpt;

pub struct GpuWeights {
    pub config: GptConfig,
    pub wte: Tensor, // (V, C)
    pub layers: Vec<GpuLayer>,
    pub lm_head: Tensor, // (V, C)
    pub rotary: Arc<RotaryTable>,
}

pub struct GpuLayer {
    pub qkv: Tensor,       // ((H + 2·KVH)·D, C)
    pub attn_proj: Tensor, // (C, C)
    pub fc: Tensor,        // (4C, C)
    pub mlp_proj: Tensor,  // (C, 4C)
}

impl GpuWeights {
    pub fn new(model: &Gpt) -> GpuWeights {
        let [wte, matrices @ .., lm_head] = &weights(model)[..] else {
            unreachable!("two embeddings at least")
        };
        let layer = |[q, k, v, attn_proj, fc, mlp_proj]: &[&Tensor; 6]| GpuLayer {
            qkv: Tensor::rounded(&[q, k, v]),
            attn_proj: Tensor::rounded(&[attn_proj]),
            fc: Tensor::rounded(&[fc]),
            mlp_proj: Tensor::rounded(&[mlp_proj]),
        };
        GpuWeights {
            config: model.config,
            wte: Tensor::rounded(&[wte]),
            layers: matrices.as_chunks().0.iter().map(layer).collect(),
            lm_head: Tensor::rounded(&[lm_head]),
            rotary: model.rotary().clone(),
        }
    }

    /// Takes the values of a model of the same sizes.
    #[track_caller]
    pub fn refresh(&mut self, model: &Gpt) {
        assert_eq!(self.config, model.config, "the weights of another model");
        let [wte, matrices @ .., lm_head] = &weights(model)[..] else {
            unreachable!("two embeddings at least")
        };
        self.wte.set_rounded(&[wte]);
        self.lm_head.set_rounded(&[lm_head]);
        for (layer, [q, k, v, attn_proj, fc, mlp_proj]) in self.layers.iter_mut().zip(matrices.as_chunks().0)
        {
            layer.qkv.set_rounded(&[q, k, v]);
            layer.attn_proj.set_rounded(&[attn_proj]);
            layer.fc.set_rounded(&[fc]);
            layer.mlp_proj.set_rounded(&[mlp_proj]);
        }
    }
}

/// wte, then c_q, c_k, c_v, c_proj, c_fc, c_proj of each layer, then lm_head: the order of `Gpt::params`.
fn weights(model: &Gpt) -> Vec<&Tensor> {
    model.params().into_iter().map(|(_, _, weight)| weight).collect()
}
