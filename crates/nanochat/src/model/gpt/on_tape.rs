//! The trunk as ops of a tape, which records them in training but not in evaluation and in the CPU's engine.

use std::sync::Arc;

use nanochat_tensor::{RotaryTable, Tape, Tensor};

use super::trunk::{self, LayerOps};
use super::weights::Weights;
use super::{Attend, GptConfig};
use crate::model::config::Recompute;

pub struct OnTape<'a> {
    pub tape: &'a Tape,
    pub tokens: PassInputs,
    pub recompute: Recompute,
    /// The attention of the layers; None: every row of the batch attends to itself.
    pub attend: Option<Attend<'a>>,
}

/// The inputs that all layers of one pass share.
#[derive(Clone)]
pub struct PassInputs {
    pub config: GptConfig,
    pub ids: Arc<[u32]>,         // (B·T)
    pub positions: Arc<[usize]>, // (B·T)
    pub shape: [usize; 2],       // B, T
    pub rotary: Arc<RotaryTable>,
}

impl LayerOps<3> for OnTape<'_> {
    type Stream = Tensor; // (B·T, C)
    type Heads = [Tensor; 3]; // (B, T, H, D), (B, T, KVH, D), (B, T, KVH, D)
    type Found = Tensor; // (B·T, C)

    fn embed(&mut self, wte: &Tensor) -> Tensor {
        self.tape.rms_norm(&self.tape.embedding(&self.tokens.ids, wte), self.tokens.config.rms_norm_eps)
    }

    fn heads(&mut self, x: &Tensor, [c_q, c_k, c_v]: &[Tensor; 3]) -> [Tensor; 3] {
        let PassInputs { config, shape: [b, t], .. } = &self.tokens;
        let normed = self.tape.rms_norm(x, config.rms_norm_eps);
        [(c_q, config.n_head), (c_k, config.n_kv_head), (c_v, config.n_kv_head)]
            .map(|(w, n)| self.tape.linear(&normed, w).reshape(&[*b, *t, n, config.head_dim()]))
    }

    fn attend(&mut self, i: usize, [q, k, v]: [Tensor; 3]) -> Tensor {
        let PassInputs { config, shape: [b, t], positions, rotary, .. } = &self.tokens;
        let [q, k] = [q, k].map(|x| self.tape.rotary_qk_norm(&x, rotary, positions, config.rms_norm_eps));
        let y = match &mut self.attend {
            None => self.tape.attention(&q, &k, &v, None),
            Some(attend) => attend(i, &q, &k, &v),
        };
        y.reshape(&[b * t, config.n_embd])
    }

    fn linear_add(&mut self, x: Tensor, y: Tensor, w: &Tensor) -> Tensor {
        self.tape.linear_add(&x, &y, w)
    }

    fn mlp(&mut self, x: Tensor, c_fc: &Tensor, c_proj: &Tensor) -> Tensor {
        let (eps, c_fc, c_proj) = (self.tokens.config.rms_norm_eps, c_fc.clone(), c_proj.clone());
        let mlp = move |tape: &Tape, x: &Tensor| tape.mlp(x, &tape.rms_norm(x, eps), &c_fc, &c_proj);
        match self.recompute {
            Recompute::Mlp => self.tape.recompute(&x, mlp),
            _ => mlp(self.tape, &x),
        }
    }

    fn layer(&mut self, i: usize, weights: &Weights, x: Tensor) -> Tensor {
        if self.recompute != Recompute::Block {
            return trunk::layer(self, i, weights, x);
        }
        assert!(self.attend.is_none(), "what looks at a cache is not run twice");
        let (weights, tokens) = (weights.clone(), self.tokens.clone());
        self.tape.recompute(&x, move |tape, x| {
            let mut again = OnTape { tape, tokens: tokens.clone(), recompute: Recompute::None, attend: None };
            trunk::layer(&mut again, i, &weights, x.clone())
        })
    }
}
