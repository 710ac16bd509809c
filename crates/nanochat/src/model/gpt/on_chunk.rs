//! The trunk over new tokens of several sequences on a GPU: prompts side by side, whose keys and values go into the
//! pages of a cache.

use nanochat_tensor::{Chunk, PagedKv, RotaryTable, Tape, Tensor};

use super::joined::JoinedWeights;
use super::trunk::{LayerOps, trunk};

struct OnChunk<'a> {
    tape: Tape,
    chunk: &'a Chunk,
    cache: &'a mut PagedKv,
    rotary: &'a RotaryTable,
    eps: f32,
}

/// Returns the hidden states (padded rows, C) of the chunk's tokens, before the last norm, and writes their keys and
/// values into the cache. A cache of a single layer can serve all layers in turn if it is not read afterwards.
pub fn hidden_in_chunk(model: &JoinedWeights, chunk: &Chunk, cache: &mut PagedKv) -> Tensor {
    let (rotary, eps) = (&*model.rotary, model.config.rms_norm_eps);
    trunk(&mut OnChunk { tape: Tape::off(), chunk, cache, rotary, eps }, &model.weights)
}

impl LayerOps<1> for OnChunk<'_> {
    type Stream = Tensor; // (padded, C)
    type Heads = Tensor; // (padded, (H + 2·KVH)·D)
    type Found = Tensor; // (padded, C)

    fn embed(&mut self, wte: &Tensor) -> Tensor {
        self.chunk.embed(wte, self.eps)
    }

    fn heads(&mut self, x: &Tensor, [qkv]: &[Tensor; 1]) -> Tensor {
        self.tape.linear(&self.tape.rms_norm(x, self.eps), qkv)
    }

    fn attend(&mut self, i: usize, mut heads: Tensor) -> Tensor {
        let i = i % self.cache.layers();
        self.chunk.enter(&mut heads, self.rotary, self.cache, i, self.eps);
        self.chunk.attend(&heads, self.cache, i)
    }

    fn linear_add(&mut self, x: Tensor, y: Tensor, w: &Tensor) -> Tensor {
        self.tape.linear_add(&x, &y, w)
    }

    fn mlp(&mut self, x: Tensor, c_fc: &Tensor, c_proj: &Tensor) -> Tensor {
        self.tape.mlp(&x, &self.tape.rms_norm(&x, self.eps), c_fc, c_proj)
    }
}
