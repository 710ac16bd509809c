//! The GPT of nanochat (gpt.py at b399e43): rotary positions, QK norm, ReLU², untied head, softcapped
//! logits, no biases, no learned norm gains.
//!
//! Dimensions: B rows, T tokens, C = n_embd, H = n_head, D = head_dim, KVH = n_kv_head, V = vocab_size.

use std::sync::Arc;

use nanochat_tensor::{Compute, Device, Precision, Rng, RotaryTable, RowIndex, Tape, Tensor};
use rayon::prelude::*;

use crate::batch::Batch;
use crate::config::{GptConfig, Recompute};

/// Rotary positions made ready, as a multiple of the trained length: scoring long few-shot prompts
/// reaches beyond it.
const ROTARY_REACH: usize = 10;

const WTE: &str = "transformer.wte.weight";
const LM_HEAD: &str = "lm_head.weight";

#[derive(Clone)]
pub struct Gpt {
    pub config: GptConfig,
    /// What training does not keep for its backward pass.
    pub recompute: Recompute,
    /// What products round to in training on the CPU; all else computes in f32.
    pub compute: Compute,
    wte: Tensor, // (V, C)
    blocks: Vec<Block>,
    lm_head: Tensor, // (V, C)
    rotary: Arc<RotaryTable>,
}

#[derive(Clone)]
struct Block {
    attn: CausalSelfAttention,
    mlp: Mlp,
}

#[derive(Clone)]
struct CausalSelfAttention {
    c_q: Tensor,    // (C, C)
    c_k: Tensor,    // (KVH·D, C)
    c_v: Tensor,    // (KVH·D, C)
    c_proj: Tensor, // (C, C)
}

#[derive(Clone)]
struct Mlp {
    c_fc: Tensor,   // (4C, C)
    c_proj: Tensor, // (C, 4C)
}

/// Which optimizer a weight belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embedding,
    Unembedding,
    Matrix,
}

/// How one attention layer looks at the past: (layer, q, k, v) -> y, with q, y (B, T, H, D) and
/// k, v (B, T, KVH, D). Training attends inside the batch, generation over the cache.
pub type Attend<'a> = &'a mut dyn FnMut(usize, &Tensor, &Tensor, &Tensor) -> Tensor;

impl Gpt {
    /// | weight              | initial values                                  |
    /// |---------------------|-------------------------------------------------|
    /// | wte                 | normal, std 1                                   |
    /// | lm_head, c_proj     | 0                                               |
    /// | c_q, c_k, c_v, c_fc | normal, std min(1, √(fan_out / fan_in)) / √fan_in |
    pub fn init(config: GptConfig, seed: u64) -> Gpt {
        let (c, kv_dim) = (config.n_embd, config.kv_dim());
        let normal = |stream: usize, rows: usize, cols: usize, std: f32| {
            let mut rng = Rng::new(&[seed, stream as u64]);
            Tensor::new((0..rows * cols).map(|_| std * rng.normal()).collect(), &[rows, cols])
        };
        let wte = normal(1, config.vocab_size, c, 1.0);
        let block = |layer: usize| {
            let matrix = |n: usize, fan_out: usize, fan_in: usize| {
                let std = (fan_out as f32 / fan_in as f32).sqrt().min(1.0) / (fan_in as f32).sqrt();
                normal(2 + 4 * layer + n, fan_out, fan_in, std)
            };
            Block {
                attn: CausalSelfAttention {
                    c_q: matrix(0, c, c),
                    c_k: matrix(1, kv_dim, c),
                    c_v: matrix(2, kv_dim, c),
                    c_proj: Tensor::zeros(&[c, c]),
                },
                mlp: Mlp { c_fc: matrix(3, 4 * c, c), c_proj: Tensor::zeros(&[c, 4 * c]) },
            }
        };
        // The 1.9 billion values of a d32 would take one thread half a minute.
        let blocks = (0..config.n_layer).into_par_iter().map(block).collect();
        let lm_head = Tensor::zeros(&[config.vocab_size, c]);
        Gpt::of(config, wte, blocks, lm_head)
    }

    fn of(config: GptConfig, wte: Tensor, blocks: Vec<Block>, lm_head: Tensor) -> Gpt {
        let rotary = rotary(config);
        Gpt { config, recompute: Recompute::None, compute: Compute::F32, wte, blocks, lm_head, rotary }
    }

    /// The name and shape of every weight, in the order of `params`.
    pub fn shapes(config: &GptConfig) -> Vec<(String, [usize; 2])> {
        let (v, c, kv_dim) = (config.vocab_size, config.n_embd, config.kv_dim());
        let of_block = [
            ("attn.c_q", [c, c]),
            ("attn.c_k", [kv_dim, c]),
            ("attn.c_v", [kv_dim, c]),
            ("attn.c_proj", [c, c]),
            ("mlp.c_fc", [4 * c, c]),
            ("mlp.c_proj", [c, 4 * c]),
        ];
        let mut shapes = vec![(WTE.to_string(), [v, c])];
        for i in 0..config.n_layer {
            shapes.extend(of_block.map(|(name, shape)| (block_name(i, name), shape)));
        }
        shapes.push((LM_HEAD.to_string(), [v, c]));
        shapes
    }

    /// Bytes of the weights in float32 and of the rotary table.
    pub fn bytes(config: &GptConfig) -> f64 {
        let table = ROTARY_REACH * config.sequence_len * config.head_dim();
        (config.params() + table) as f64 * size_of::<f32>() as f64
    }

    /// A model whose weights `weight(name, shape)` provides, asked in the order of `params`.
    pub fn from_weights<E>(
        config: GptConfig,
        mut weight: impl FnMut(&str, &[usize]) -> Result<Tensor, E>,
    ) -> Result<Gpt, E> {
        let mut shapes = Gpt::shapes(&config).into_iter();
        let mut next = || {
            let (name, shape) = shapes.next().expect("a shape for every weight");
            weight(&name, &shape)
        };
        let wte = next()?;
        let mut blocks = Vec::with_capacity(config.n_layer);
        for _ in 0..config.n_layer {
            let attn = CausalSelfAttention { c_q: next()?, c_k: next()?, c_v: next()?, c_proj: next()? };
            blocks.push(Block { attn, mlp: Mlp { c_fc: next()?, c_proj: next()? } });
        }
        Ok(Gpt::of(config, wte, blocks, next()?))
    }

    /// The model with its weights on `device`, in float32; on a GPU it computes in bf16.
    pub fn to_device(mut self, device: &Device) -> Gpt {
        self.params_mut().into_iter().for_each(|(_, _, weight)| *weight = weight.to_device(device));
        // A table lies on the first GPU that asks for it, and another GPU cannot read it there.
        self.rotary = rotary(self.config);
        self
    }

    /// A model for generation on the CPU: every matrix that multiplies in `precision`, the embedding shared.
    pub fn packed(&self, precision: Precision) -> Gpt {
        let mut packed = self.clone();
        for (_, role, weight) in packed.params_mut() {
            if role != Role::Embedding {
                *weight = weight.to_packed(precision);
            }
        }
        packed
    }

    /// The model with the values that `packed` weights have, in f32: to measure what packing costs.
    pub fn rounded(&self, precision: Precision) -> Gpt {
        let mut rounded = self.packed(precision);
        for (_, _, weight) in rounded.params_mut() {
            *weight = Tensor::new(weight.host().into_owned(), weight.shape());
        }
        rounded
    }

    pub fn device(&self) -> Device {
        self.wte.device()
    }

    /// batch (B, T) -> Σ weight · nll (1), nll (B·T)
    pub fn loss_sum(&self, tape: &Tape, batch: &Batch) -> (Tensor, Tensor) {
        let x = self.hidden_in_batch(tape, &batch.inputs, batch.shape);
        tape.linear_softcap_cross_entropy(&x, &self.lm_head, &batch.targets, &batch.weights)
    }

    /// ids (B, T) -> logits (B·T, V) after the softcap, all at once: for scoring few tokens.
    pub fn logits(&self, ids: &[u32], shape: [usize; 2]) -> Tensor {
        self.unembed(&self.hidden_in_batch(&Tape::off(), ids, shape))
    }

    /// x (N, C) -> logits (N, V) after the softcap, on the CPU
    pub fn unembed(&self, x: &Tensor) -> Tensor {
        nanochat_tensor::ops::softcapped_logits(x, &self.lm_head).to_device(&Device::Cpu)
    }

    /// x (N, C) -> the likeliest token after each (N)
    pub fn likeliest(&self, x: &Tensor) -> Vec<u32> {
        nanochat_tensor::ops::softcapped_logits(x, &self.lm_head).argmax()
    }

    /// x (N, C) -> logits (N, tokens) after the softcap of these tokens only, on the CPU
    pub fn logits_of(&self, x: &Tensor, tokens: &RowIndex) -> Tensor {
        nanochat_tensor::ops::softcapped_logits(x, &self.lm_head.take_rows(tokens)).to_device(&Device::Cpu)
    }

    /// x (N, C), targets (N) -> nll (N), on the CPU
    pub fn nll(&self, x: &Tensor, targets: &[u32]) -> Tensor {
        let weights = vec![1.0; targets.len()];
        let (_, nll) = Tape::off().linear_softcap_cross_entropy(x, &self.lm_head, targets, &weights);
        nll.to_device(&Device::Cpu)
    }

    /// ids (B, T) -> normalized hidden states (B·T, C), every row attending to itself
    fn hidden_in_batch(&self, tape: &Tape, ids: &[u32], [b, t]: [usize; 2]) -> Tensor {
        let tokens = self.tokens([b, t], (0..b * t).map(|n| n % t).collect());
        let eps = self.config.rms_norm_eps;
        let mut x = tape.rms_norm(&tape.embedding(ids, &self.wte), eps); // (B·T, C)
        for block in &self.blocks {
            let (block, tokens) = (block.clone(), tokens.clone());
            x = match self.recompute {
                Recompute::None => block.forward(tape, &x, &tokens),
                Recompute::Mlp => {
                    let x = block.attn.forward_in_batch(tape, &x, &tokens);
                    tape.recompute(&x, move |tape, x| block.mlp.forward(tape, x, eps))
                }
                Recompute::Block => tape.recompute(&x, move |tape, x| block.forward(tape, x, &tokens)),
            };
        }
        tape.rms_norm(&x, eps)
    }

    /// ids and positions (B, T) -> normalized hidden states (B·T, C)
    pub fn hidden(
        &self,
        tape: &Tape,
        ids: &[u32],
        shape: [usize; 2],
        positions: &Arc<[usize]>,
        attend: Attend,
    ) -> Tensor {
        let tokens = self.tokens(shape, positions.clone());
        let eps = self.config.rms_norm_eps;
        let mut x = tape.rms_norm(&tape.embedding(ids, &self.wte), eps); // (B·T, C)
        for (layer, Block { attn, mlp }) in self.blocks.iter().enumerate() {
            x = attn.forward(tape, &x, &tokens, |q, k, v| attend(layer, q, k, v));
            x = mlp.forward(tape, &x, eps);
        }
        tape.rms_norm(&x, eps)
    }

    fn tokens(&self, shape: [usize; 2], positions: Arc<[usize]>) -> Tokens {
        Tokens { config: self.config, shape, positions, rotary: self.rotary.clone() }
    }

    pub fn rotary(&self) -> &Arc<RotaryTable> {
        &self.rotary
    }

    /// How many positions the rotary table reaches.
    pub fn max_positions(&self) -> usize {
        self.rotary.positions()
    }

    /// Every weight with its name and its optimizer, in a fixed order.
    pub fn params(&self) -> Vec<(String, Role, &Tensor)> {
        let mut params = vec![(WTE.to_string(), Role::Embedding, &self.wte)];
        for (i, block) in self.blocks.iter().enumerate() {
            params.extend(block.weights().map(|(name, w)| (block_name(i, name), Role::Matrix, w)));
        }
        params.push((LM_HEAD.to_string(), Role::Unembedding, &self.lm_head));
        params
    }

    /// As `params`, to be changed.
    pub fn params_mut(&mut self) -> Vec<(String, Role, &mut Tensor)> {
        let mut params = vec![(WTE.to_string(), Role::Embedding, &mut self.wte)];
        for (i, block) in self.blocks.iter_mut().enumerate() {
            params.extend(block.weights_mut().map(|(name, w)| (block_name(i, name), Role::Matrix, w)));
        }
        params.push((LM_HEAD.to_string(), Role::Unembedding, &mut self.lm_head));
        params
    }
}

/// What the layers of one pass share.
#[derive(Clone)]
struct Tokens {
    config: GptConfig,
    shape: [usize; 2], // B, T
    positions: Arc<[usize]>,
    rotary: Arc<RotaryTable>,
}

impl CausalSelfAttention {
    /// x (B·T, C) -> x + attention of its norm
    fn forward(
        &self,
        tape: &Tape,
        x: &Tensor,
        tokens: &Tokens,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let Tokens { config, shape: [b, t], positions, rotary } = tokens;
        let GptConfig { n_head, n_kv_head, n_embd, rms_norm_eps: eps, .. } = *config;
        let normed = tape.rms_norm(x, eps);
        let heads = |w: &Tensor, n: usize| tape.linear(&normed, w).reshape(&[*b, *t, n, config.head_dim()]);
        let q = tape.rotary_qk_norm(&heads(&self.c_q, n_head), rotary, positions, eps);
        let k = tape.rotary_qk_norm(&heads(&self.c_k, n_kv_head), rotary, positions, eps);
        let y = attend(&q, &k, &heads(&self.c_v, n_kv_head)); // (B, T, H, D)
        tape.linear_add(x, &y.reshape(&[b * t, n_embd]), &self.c_proj)
    }

    fn forward_in_batch(&self, tape: &Tape, x: &Tensor, tokens: &Tokens) -> Tensor {
        self.forward(tape, x, tokens, |q, k, v| tape.attention(q, k, v, None))
    }
}

impl Mlp {
    /// x (B·T, C) -> x + MLP of its norm
    fn forward(&self, tape: &Tape, x: &Tensor, eps: f32) -> Tensor {
        tape.mlp(x, &tape.rms_norm(x, eps), &self.c_fc, &self.c_proj)
    }
}

impl Block {
    fn forward(&self, tape: &Tape, x: &Tensor, tokens: &Tokens) -> Tensor {
        let x = self.attn.forward_in_batch(tape, x, tokens);
        self.mlp.forward(tape, &x, tokens.config.rms_norm_eps)
    }

    fn weights(&self) -> [(&'static str, &Tensor); 6] {
        let Block { attn, mlp } = self;
        [
            ("attn.c_q", &attn.c_q),
            ("attn.c_k", &attn.c_k),
            ("attn.c_v", &attn.c_v),
            ("attn.c_proj", &attn.c_proj),
            ("mlp.c_fc", &mlp.c_fc),
            ("mlp.c_proj", &mlp.c_proj),
        ]
    }

    fn weights_mut(&mut self) -> [(&'static str, &mut Tensor); 6] {
        let Block { attn, mlp } = self;
        [
            ("attn.c_q", &mut attn.c_q),
            ("attn.c_k", &mut attn.c_k),
            ("attn.c_v", &mut attn.c_v),
            ("attn.c_proj", &mut attn.c_proj),
            ("mlp.c_fc", &mut mlp.c_fc),
            ("mlp.c_proj", &mut mlp.c_proj),
        ]
    }
}

fn block_name(i: usize, name: &str) -> String {
    format!("transformer.h.{i}.{name}.weight")
}

fn rotary(config: GptConfig) -> Arc<RotaryTable> {
    RotaryTable::new(ROTARY_REACH * config.sequence_len, config.head_dim(), config.rope_theta)
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Grads;

    use super::*;

    #[test]
    fn parameters_are_as_many_as_the_formula_says() {
        for (depth, kv_heads) in [(1, 1), (4, 2), (4, 1)] {
            let config = GptConfig::from_depth(depth, 300, 8).unwrap().with_kv_heads(kv_heads).unwrap();
            let params: usize = Gpt::init(config, 0).params().iter().map(|(_, _, w)| w.len()).sum();
            assert_eq!(params, config.params(), "d{depth} with {kv_heads} key heads");
        }
    }

    #[test]
    fn a_fresh_model_is_uniform_over_the_vocabulary() {
        let gpt = Gpt::init(GptConfig::from_depth(1, 50, 8).unwrap(), 1);
        assert!(gpt.logits(&[1, 2, 3, 4], [2, 2]).data().iter().all(|&z| z == 0.0));
    }

    /// A model none of whose weights is zero.
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
