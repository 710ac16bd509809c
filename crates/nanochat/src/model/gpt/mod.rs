//! The GPT of nanochat (gpt.py at b399e43): rotary positions, QK norm, ReLU², untied head, softcapped
//! logits, no biases, no learned norm gains.
//!
//! Dimensions: B rows, T tokens, C = n_embd, H = n_head, D = head_dim, KVH = n_kv_head, V = vocab_size.

mod groups;
mod joined;
mod on_chunk;
mod on_rows;
mod on_tape;
mod sizes;
mod trunk;
mod weights;

use std::sync::Arc;

use nanochat_tensor::{Device, Dtype, Recipe, Rng, RotaryTable, RowIndex, Tape, Tensor};
use rayon::prelude::*;

use crate::model::batch::Batch;
use crate::model::config::{ConfigError, GptConfig, Recompute};
pub(crate) use joined::JoinedWeights;
pub(crate) use on_chunk::hidden_in_chunk;
pub(crate) use on_rows::RowBuffers;
use on_tape::{OnTape, PassInputs};
use weights::{Init, Weight, Weights};

pub use groups::{EMBEDDING_LR, MATRIX_LR, ParamGroup, Rates, Rule, UNEMBEDDING_LR};
pub use sizes::KeptValues;
pub use weights::WeightRole;

/// The length of the rotary table, as a multiple of the trained context: scoring long few-shot prompts exceeds the
/// context.
const ROTARY_REACH: usize = 10;

#[derive(Clone)]
pub struct Gpt {
    pub config: GptConfig,
    /// The activations that the backward pass recomputes instead of keeping.
    pub recompute: Recompute,
    /// The types that training computes in.
    pub recipe: Recipe,
    weights: Weights,
    rotary: Arc<RotaryTable>,
}

/// The attention of one layer: (layer, q, k, v) -> y, with q, y (B, T, H, D) and k, v (B, T, KVH, D). Training attends
/// within the batch, generation over the cache.
pub type Attend<'a> = &'a mut dyn FnMut(usize, &Tensor, &Tensor, &Tensor) -> Tensor;

impl Gpt {
    /// Makes a model with initial weights, which depend only on `config` and `seed`:
    ///
    /// | weight              | initial values                                  |
    /// |---------------------|-------------------------------------------------|
    /// | wte                 | normal, std 1                                   |
    /// | lm_head, c_proj     | 0                                               |
    /// | c_q, c_k, c_v, c_fc | normal, std min(1, √(fan_out / fan_in)) / √fan_in |
    pub fn init(config: GptConfig, seed: u64) -> Gpt {
        let tensor = |weight: &Weight| match weight.init {
            Init::Zero => Tensor::zeros(&weight.shape),
            Init::Normal { std, stream } => {
                let mut rng = Rng::new(&[seed, stream as u64]);
                Tensor::new((0..weight.len()).map(|_| std * rng.normal()).collect(), &weight.shape)
            }
        };
        let weights = Weights::of(&config);
        // The 1.9 billion values of a d32 would take one thread half a minute.
        let tensors: Vec<Tensor> = weights.each().collect::<Vec<_>>().into_par_iter().map(tensor).collect();
        Gpt::of(config, tensors)
    }

    /// Makes a model of these weights, in the order of `params`.
    fn of(config: GptConfig, weights: Vec<Tensor>) -> Gpt {
        let (weights, rotary) = (Weights::from_each(&config, weights), rotary(config));
        Gpt { config, recompute: Recompute::None, recipe: Recipe::F32, weights, rotary }
    }

    /// Returns the name and shape of every weight, in the order of `params`.
    pub fn shapes(config: &GptConfig) -> Vec<(String, [usize; 2])> {
        Weights::of(config).each().map(|weight| (weight.name(), weight.shape)).collect()
    }

    /// Returns the bytes of the weights in float32 and of the rotary table.
    pub fn bytes(config: &GptConfig) -> f64 {
        let table = ROTARY_REACH * config.sequence_len * config.head_dim();
        (config.params() + table) as f64 * size_of::<f32>() as f64
    }

    /// Makes a model from the weights that `weight(name, shape)` returns. It is called in the order of `params`.
    pub fn from_weights<E>(
        config: GptConfig,
        mut weight: impl FnMut(&str, &[usize]) -> Result<Tensor, E>,
    ) -> Result<Gpt, E> {
        let weights = Weights::of(&config);
        let tensors = weights.each().map(|listed| weight(&listed.name(), &listed.shape));
        Ok(Gpt::of(config, tensors.collect::<Result<_, E>>()?))
    }

    /// Moves the weights to `device`, in float32; on a GPU the model computes in bf16. A shape for which the device has
    /// no kernels is an error.
    pub fn to_device(mut self, device: &Device) -> Result<Gpt, ConfigError> {
        self.config.within(device.limits())?;
        self.params_mut().into_iter().for_each(|(_, _, weight)| *weight = weight.to_device(device));
        // The table is on the first GPU that used it, and another GPU cannot read it there.
        self.rotary = rotary(self.config);
        Ok(self)
    }

    /// Returns a model for generation on the CPU: it shares the embedding with this one and stores all other weights as
    /// `dtype`.
    pub fn packed(&self, dtype: Dtype) -> Gpt {
        let mut packed = self.clone();
        for (_, role, weight) in packed.params_mut() {
            if role != WeightRole::Embedding {
                *weight = weight.to_packed(dtype);
            }
        }
        packed
    }

    /// Returns the model with weights rounded as by `packed` but stored in f32, to measure the error of packing.
    pub fn rounded(&self, dtype: Dtype) -> Gpt {
        let mut rounded = self.packed(dtype);
        for (_, _, weight) in rounded.params_mut() {
            *weight = Tensor::new(weight.host().into_owned(), weight.shape());
        }
        rounded
    }

    pub fn device(&self) -> Device {
        self.weights.wte.device()
    }

    /// Computes the loss and the nll of every target: batch (B, T) -> Σ weight · nll (1), nll (B·T).
    pub fn loss_sum(&self, tape: &Tape, batch: &Batch) -> (Tensor, Tensor) {
        let x = self.hidden_in_batch(tape, &batch.inputs, batch.shape);
        tape.linear_softcap_cross_entropy(&x, &self.weights.lm_head, &batch.targets, &batch.weights)
    }

    /// Computes all logits after the softcap at once, for scoring few tokens: ids (B, T) -> logits (B·T, V).
    pub fn logits(&self, ids: &[u32], shape: [usize; 2]) -> Tensor {
        self.unembed(&self.hidden_in_batch(&Tape::off(), ids, shape))
    }

    /// Computes logits after the softcap and moves them to the CPU: x (N, C) -> logits (N, V).
    pub fn unembed(&self, x: &Tensor) -> Tensor {
        nanochat_tensor::ops::softcapped_logits(x, &self.weights.lm_head).to_device(&Device::Cpu)
    }

    /// Returns the likeliest next token of each hidden state: x (N, C) -> tokens (N).
    pub fn likeliest(&self, x: &Tensor) -> Vec<u32> {
        nanochat_tensor::ops::softcapped_logits(x, &self.weights.lm_head).argmax()
    }

    /// Computes the logits of these tokens only, after the softcap, and moves them to the CPU: x (N, C) -> (N, tokens).
    pub fn logits_of(&self, x: &Tensor, tokens: &RowIndex) -> Tensor {
        nanochat_tensor::ops::softcapped_logits(x, &self.weights.lm_head.take_rows(tokens))
            .to_device(&Device::Cpu)
    }

    /// Computes the nll of each target and moves it to the CPU: x (N, C), targets (N) -> nll (N).
    pub fn nll(&self, x: &Tensor, targets: &[u32]) -> Tensor {
        let weights = vec![1.0; targets.len()];
        let (_, nll) = Tape::off().linear_softcap_cross_entropy(x, &self.weights.lm_head, targets, &weights);
        nll.to_device(&Device::Cpu)
    }

    /// ids (B, T) -> normalized hidden states (B·T, C), every row attending to itself
    fn hidden_in_batch(&self, tape: &Tape, ids: &[u32], shape @ [b, t]: [usize; 2]) -> Tensor {
        let tokens = self.tokens(ids, shape, (0..b * t).map(|n| n % t).collect());
        self.normalized(OnTape { tape, tokens, recompute: self.recompute, attend: None })
    }

    /// Computes the normalized hidden states, with attention by `attend`: ids and positions (B, T) -> (B·T, C).
    pub fn hidden(
        &self,
        tape: &Tape,
        ids: &[u32],
        shape: [usize; 2],
        positions: &Arc<[usize]>,
        attend: Attend,
    ) -> Tensor {
        let tokens = self.tokens(ids, shape, positions.clone());
        self.normalized(OnTape { tape, tokens, recompute: Recompute::None, attend: Some(attend) })
    }

    fn normalized(&self, mut ops: OnTape) -> Tensor {
        let x = trunk::trunk(&mut ops, &self.weights);
        ops.tape.rms_norm(&x, self.config.rms_norm_eps)
    }

    fn tokens(&self, ids: &[u32], shape: [usize; 2], positions: Arc<[usize]>) -> PassInputs {
        PassInputs { config: self.config, ids: ids.into(), positions, shape, rotary: self.rotary.clone() }
    }

    pub fn rotary(&self) -> &Arc<RotaryTable> {
        &self.rotary
    }

    /// Returns the number of positions in the rotary table.
    pub fn max_positions(&self) -> usize {
        self.rotary.positions()
    }

    /// Returns every weight with its name and its role, in a fixed order.
    pub fn params(&self) -> Vec<(String, WeightRole, &Tensor)> {
        let named = |(weight, tensor): (&Weight, _)| (weight.name(), weight.role, tensor);
        Weights::of(&self.config).each().zip(self.weights.each()).map(named).collect()
    }

    /// Returns the same as `params`, mutable.
    pub fn params_mut(&mut self) -> Vec<(String, WeightRole, &mut Tensor)> {
        let named = |(weight, tensor): (&Weight, _)| (weight.name(), weight.role, tensor);
        Weights::of(&self.config).each().zip(self.weights.each_mut()).map(named).collect()
    }
}

fn rotary(config: GptConfig) -> Arc<RotaryTable> {
    RotaryTable::new(ROTARY_REACH * config.sequence_len, config.head_dim(), config.rope_theta)
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Grads;

    use super::*;

    #[test]
    fn a_fresh_model_is_uniform_over_the_vocabulary() {
        let gpt = Gpt::init(GptConfig::from_depth(1, 50, 8).unwrap(), 1);
        assert!(gpt.logits(&[1, 2, 3, 4], [2, 2]).data().iter().all(|&z| z == 0.0));
    }

    /// Returns a model without zero weights.
    fn random(config: GptConfig) -> Gpt {
        let mut gpt = Gpt::init(config, 1);
        for (i, (_, _, w)) in gpt.params_mut().into_iter().enumerate() {
            let mut rng = Rng::new(&[7, i as u64]);
            w.data_mut().iter_mut().for_each(|w| *w = 0.1 * rng.normal());
        }
        gpt
    }

    #[test]
    fn recomputing_changes_no_bit_of_loss_and_gradients() {
        let mut gpt = random(GptConfig::from_depth(4, 50, 8).unwrap().with_kv_heads(1).unwrap());
        let ids: Vec<u32> = (0..16).map(|i| i * 7 % 50).collect();
        let targets = ids.iter().map(|id| (id + 1) % 50).collect();
        let batch = Batch { inputs: ids, targets, weights: vec![1.0; 16], shape: [2, 8] };
        let mut gradients = |recompute| {
            gpt.recompute = recompute;
            let (tape, mut grads) = (Tape::new(), Grads::default());
            let (loss, _) = gpt.loss_sum(&tape, &batch);
            tape.backward(&loss, 0.5, &mut grads);
            let grads = gpt.params().into_iter().map(|(_, _, w)| grads.get(w).unwrap().data().to_vec());
            (loss.item(), grads.collect::<Vec<_>>())
        };
        let none = gradients(Recompute::None);
        assert_eq!(none, gradients(Recompute::Mlp));
        assert_eq!(none, gradients(Recompute::Block));
    }

    #[test]
    fn a_token_does_not_see_the_tokens_after_it() {
        let gpt = random(GptConfig::from_depth(2, 50, 8).unwrap());
        let (one, other) = (gpt.logits(&[1, 2, 3, 4], [1, 4]), gpt.logits(&[1, 2, 9, 9], [1, 4]));
        assert_eq!(one.data()[..100], other.data()[..100]);
        assert_ne!(one.data()[100..], other.data()[100..]);
    }
}
