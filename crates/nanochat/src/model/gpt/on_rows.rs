//! The trunk over one token for each of several rows on a GPU: five kernels a layer, in buffers that are reused.
//!
//! With few rows, a step's time is that of reading the weights and the rows' keys and values. Separate passes over the
//! activations would only add to it, so each is fused into a matrix product or into attention.

use nanochat_tensor::{
    DecodeRows, Epilogue, PAGE, PagedKv, RotaryTable, Shape, Tensor, decode_attention, decode_linear,
};

use super::joined::JoinedWeights;
use super::trunk::{LayerOps, trunk};

/// The activations of up to R rows.
pub struct RowBuffers {
    pub rows: DecodeRows,
    x: Tensor,          // (R, C)
    norm: Tensor,       // (R, C)
    qkv: Tensor,        // (R, (H + 2·KVH)·D)
    y: Tensor,          // (R, C)
    h: Tensor,          // (R, 4C)
    pub logits: Tensor, // (R, V)
}

impl RowBuffers {
    /// Allocates buffers for `r` rows at the model's full context.
    pub fn new(model: &JoinedWeights, cache: &PagedKv, r: usize) -> RowBuffers {
        let (config, wte) = (&model.config, &model.weights.wte);
        let (device, pages) = (wte.device(), config.sequence_len.div_ceil(PAGE));
        let activation = |cols: usize| Tensor::zeros_on(&device, &[r, cols]).to_activation();
        RowBuffers {
            rows: DecodeRows::new(wte, config.n_head, cache, r, pages, config.rms_norm_eps),
            x: activation(config.n_embd),
            norm: activation(config.n_embd),
            qkv: activation(config.n_embd + 2 * config.kv_dim()),
            y: activation(config.n_embd),
            h: activation(4 * config.n_embd),
            logits: Tensor::zeros_on(&device, &[r, config.vocab_size]),
        }
    }

    /// Computes `logits` after the softcap for the rows in `self.rows`. The keys and values of the tokens are written
    /// into the cache.
    pub fn run(&mut self, model: &JoinedWeights, cache: &PagedKv, shape: Shape) {
        let (rotary, eps) = (&*model.rotary, model.config.rms_norm_eps);
        let mut ops = OnRows { buffers: self, cache, rotary, eps, shape };
        trunk(&mut ops, &model.weights);
        let RowBuffers { x, norm, logits, .. } = self;
        let head = &model.weights.lm_head;
        decode_linear(logits, x, head, shape.rows, Some((norm, eps)), Epilogue::Softcap);
    }
}

struct OnRows<'a> {
    buffers: &'a mut RowBuffers,
    cache: &'a PagedKv,
    rotary: &'a RotaryTable,
    eps: f32,
    shape: Shape,
}

/// A marker that the values are in the buffer `x`.
struct X;
/// A marker that the values are in the buffer `qkv`.
struct Qkv;
/// A marker that the values are in the buffer `y`.
struct Y;

impl LayerOps<1> for OnRows<'_> {
    type Stream = X;
    type Heads = Qkv;
    type Found = Y;

    fn embed(&mut self, wte: &Tensor) -> X {
        let RowBuffers { rows, x, .. } = self.buffers;
        rows.embed(x, wte, self.shape);
        X
    }

    fn heads(&mut self, _: &X, [w]: &[Tensor; 1]) -> Qkv {
        let RowBuffers { x, norm, qkv, .. } = self.buffers;
        decode_linear(qkv, x, w, self.shape.rows, Some((norm, self.eps)), Epilogue::Plain);
        Qkv
    }

    fn attend(&mut self, i: usize, _: Qkv) -> Y {
        let RowBuffers { rows, qkv, y, .. } = self.buffers;
        decode_attention(y, qkv, self.cache, i, self.rotary, rows, self.shape);
        Y
    }

    fn linear_add(&mut self, _: X, _: Y, w: &Tensor) -> X {
        let RowBuffers { x, y, .. } = self.buffers;
        decode_linear(x, y, w, self.shape.rows, None, Epilogue::Add);
        X
    }

    fn mlp(&mut self, _: X, c_fc: &Tensor, c_proj: &Tensor) -> X {
        let (RowBuffers { x, norm, h, .. }, n) = (&mut *self.buffers, self.shape.rows);
        decode_linear(h, x, c_fc, n, Some((norm, self.eps)), Epilogue::ReluSquared);
        decode_linear(x, h, c_proj, n, None, Epilogue::Add);
        X
    }
}
