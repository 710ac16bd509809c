//! The trunk of the model, from tokens to the hidden states before the last norm, written once and generic over the
//! operations of a layer.
//!
//! | who runs it | operations |
//! |---|---|
//! | training, evaluation, the engine on a CPU | `on_tape.rs`: ops that a tape records or not |
//! | prompts on a GPU | `on_chunk.rs`: tokens of several sequences over the pages of their cache |
//! | decoding on a GPU | `on_rows.rs`: five kernels a layer, which a graph records |

use nanochat_tensor::Tensor;

use super::weights::Weights;

/// The operations of the trunk on the tokens of one pass. `N` is the number of matrices that hold c_q, c_k and c_v.
///
/// Shapes: C = n_embd. An implementation may keep the values in its own buffers and pass on only markers.
pub trait LayerOps<const N: usize> {
    /// The residual stream (tokens, C).
    type Stream;
    /// The queries, keys and values, before rotation and norm.
    type Heads;
    /// The output of attention (tokens, C).
    type Found;

    /// Looks up the tokens in the embedding and normalizes the result: wte (V, C) -> (tokens, C).
    fn embed(&mut self, wte: &Tensor) -> Self::Stream;

    /// Multiplies norm(x) by c_q, c_k and c_v.
    fn heads(&mut self, x: &Self::Stream, qkv: &[Tensor; N]) -> Self::Heads;

    /// Rotates and normalizes queries and keys, and attends to the past of each token in layer `i`.
    fn attend(&mut self, i: usize, heads: Self::Heads) -> Self::Found;

    /// Computes x + y wᵀ.
    fn linear_add(&mut self, x: Self::Stream, y: Self::Found, w: &Tensor) -> Self::Stream;

    /// Computes x + relu²(norm(x) · c_fcᵀ) · c_projᵀ.
    fn mlp(&mut self, x: Self::Stream, c_fc: &Tensor, c_proj: &Tensor) -> Self::Stream;

    /// Runs layer `i`; an implementation may replace it by something that computes the same values.
    fn layer(&mut self, i: usize, weights: &Weights<Tensor, N>, x: Self::Stream) -> Self::Stream
    where
        Self: Sized,
    {
        self::layer(self, i, weights, x)
    }
}

/// Computes the tokens' hidden states (tokens, C) before the last norm.
pub fn trunk<const N: usize, O: LayerOps<N>>(ops: &mut O, weights: &Weights<Tensor, N>) -> O::Stream {
    let mut x = ops.embed(&weights.wte);
    for i in 0..weights.layers.len() {
        x = ops.layer(i, weights, x);
    }
    x
}

/// Computes the residual stream after layer `i` from the one before it: x (tokens, C) -> (tokens, C).
pub fn layer<const N: usize, O: LayerOps<N>>(
    ops: &mut O,
    i: usize,
    weights: &Weights<Tensor, N>,
    x: O::Stream,
) -> O::Stream {
    let layer = &weights.layers[i];
    let heads = ops.heads(&x, &layer.qkv);
    let found = ops.attend(i, heads);
    let x = ops.linear_add(x, found, &layer.attn_proj);
    ops.mlp(x, &layer.c_fc, &layer.mlp_proj)
}
