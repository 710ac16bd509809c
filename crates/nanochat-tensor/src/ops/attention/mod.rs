//! Causal multi-head attention with grouped queries and an optional sliding window.
//!
//! p = softmax(q kᵀ / √D + mask),  y = p v.  A query at t sees the keys u with t − window < u ≤ t.
//! dv = pᵀ dy,  ds = p ∘ (dy vᵀ − rowsum(dy ∘ y)),  dq = ds k / √D,  dk = dsᵀ q / √D
//!
//! The log-sum-exp of every row is saved instead of p (FlashAttention-2, Dao 2023): nothing of size T × T outlives a
//! block of queries.

use crate::{Tape, Tensor};

mod bf16;
mod cpu;
mod cuda;
mod heads;

/// The head sizes that the GPU's kernels for attention and rotary positions are compiled for.
pub(crate) const GPU_HEAD_DIMS: [usize; 2] = [64, 128];

/// The sizes of one call. H query heads share KVH key and value heads, H / KVH of them each.
#[derive(Clone, Copy)]
pub(super) struct AttentionShape {
    pub b: usize,
    pub t: usize,
    pub h: usize,
    pub kvh: usize,
    pub d: usize,
    pub window: usize,
}

/// The tensors that the backward pass needs from the forward pass.
struct Saved {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    /// Log-sum-exp of every row of scores (B, H, T); on a GPU to the base 2.
    lse: Tensor,
}

impl Tape {
    /// q (B, T, H, D), k and v (B, T, KVH, D) -> (B, T, H, D). `window` is the number of keys that a query sees, itself
    /// included; None for all before it.
    #[track_caller]
    pub fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Tensor {
        let s = AttentionShape::of(q, k, v, window);
        let products = self.recipe.products;
        let (y, lse) = dispatch!(q, forward(q, k, v, s; products));
        let saved = Saved { q: q.clone(), k: k.clone(), v: v.clone(), y: y.clone(), lse };
        self.record(&y, &[q, k, v], move |dy, grads| {
            let [dq, dk, dv] = dispatch!(dy, backward(dy, &saved, s; products));
            grads.add(&saved.q, dq);
            grads.add(&saved.k, dk);
            grads.add(&saved.v, dv);
        });
        y
    }
}

impl AttentionShape {
    #[track_caller]
    fn of(q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> AttentionShape {
        let &[b, t, h, d] = q.shape() else { panic!("attention wants (B, T, H, D), found {:?}", q.shape()) };
        let &[kb, kt, kvh, kd] = k.shape() else { panic!("attention wants (B, T, KVH, D) keys") };
        assert_eq!([b, t, d], [kb, kt, kd], "attention: q {:?} does not match k {:?}", q.shape(), k.shape());
        assert_eq!(k.shape(), v.shape(), "attention: k and v differ");
        assert_eq!(h % kvh, 0, "attention: {h} query heads over {kvh} key heads");
        AttentionShape { b, t, h, kvh, d, window: window.unwrap_or(t).max(1) }
    }

    pub fn scale(self) -> f32 {
        (self.d as f32).sqrt().recip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        BF16_TOLERANCE, assert_close, assert_gpu_agrees, assert_relative, gradcheck, randn,
    };
    use crate::{Grads, Recipe};

    fn inputs(t: usize, h: usize, kvh: usize, d: usize) -> [Tensor; 3] {
        [randn(&[2, t, h, d], 0), randn(&[2, t, kvh, d], 1), randn(&[2, t, kvh, d], 2)]
    }

    #[test]
    fn gradient_matches_finite_differences() {
        gradcheck(&inputs(3, 4, 2, 2), |tape, v| tape.attention(&v[0], &v[1], &v[2], None));
        gradcheck(&inputs(5, 2, 2, 2), |tape, v| tape.attention(&v[0], &v[1], &v[2], Some(2)));
    }

    /// Computes attention by its definition, one query at a time.
    fn plain(q: &Tensor, k: &Tensor, v: &Tensor, window: usize) -> Vec<f32> {
        let (&[b, t, h, d], kvh) = (q.shape().first_chunk().unwrap(), k.shape()[2]);
        let mut y = vec![0.0; q.len()];
        for (b, t_q, h_q) in (0..b).flat_map(|b| (0..t).flat_map(move |t| (0..h).map(move |h| (b, t, h)))) {
            let q = &q.data()[((b * t + t_q) * h + h_q) * d..][..d];
            let at =
                |x: &'_ Tensor, u: usize, i: usize| x.data()[((b * t + u) * kvh + h_q * kvh / h) * d + i];
            let keys = (t_q + 1).saturating_sub(window)..t_q + 1;
            let score = |u| (0..d).map(|i| q[i] * at(k, u, i)).sum::<f32>() / (d as f32).sqrt();
            let total: f32 = keys.clone().map(|u| f32::exp(score(u))).sum();
            for (u, i) in keys.flat_map(|u| (0..d).map(move |i| (u, i))) {
                y[((b * t + t_q) * h + h_q) * d + i] += score(u).exp() / total * at(v, u, i);
            }
        }
        y
    }

    #[test]
    fn blocks_of_queries_equal_the_definition() {
        for (t, h, kvh, window) in
            [(1, 1, 1, None), (150, 4, 2, None), (200, 2, 1, Some(37)), (130, 3, 3, Some(1))]
        {
            let [q, k, v] = inputs(t, h, kvh, 4);
            let y = Tape::off().attention(&q, &k, &v, window);
            assert_close(y.data(), &plain(&q, &k, &v, window.unwrap_or(t)), 1e-5);
        }
    }

    #[test]
    fn in_bf16_values_and_gradients_stay_within_its_rounding() {
        for (t, h, kvh, d, window) in
            [(33, 1, 1, 4, None), (150, 4, 2, 12, None), (200, 2, 1, 32, Some(37)), (131, 3, 3, 96, Some(70))]
        {
            let inputs = inputs(t, h, kvh, d);
            let run = |recipe| {
                let [q, k, v] = &inputs;
                let (tape, mut grads) = (Tape::computing(recipe), Grads::default());
                let y = tape.attention(q, k, v, window);
                grads.add(&y, randn(y.shape(), 9));
                tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads);
                [
                    y,
                    grads.get(q).unwrap().clone(),
                    grads.get(k).unwrap().clone(),
                    grads.get(v).unwrap().clone(),
                ]
            };
            let (want, got) = (run(Recipe::F32), run(Recipe::BF16_PRODUCTS));
            for (name, (want, got)) in ["y", "dq", "dk", "dv"].iter().zip(want.iter().zip(&got)) {
                assert_relative(name, got.data(), want.data(), BF16_TOLERANCE);
            }
        }
    }

    /// Checks a directional derivative over several blocks, where nudging each element would take too long.
    #[test]
    fn gradient_holds_across_blocks() {
        let [q, k, v] = inputs(140, 2, 1, 4);
        let (w, tape) = (randn(q.shape(), 9), Tape::new());
        let y = tape.attention(&q, &k, &v, Some(75));
        let mut grads = Grads::default();
        grads.add(&y, w.clone());
        tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads);
        for (n, x) in [&q, &k, &v].into_iter().enumerate() {
            let direction = randn(x.shape(), 20 + n as u64);
            let objective = |step: f64| -> f64 {
                let moved = x.data().iter().zip(direction.data()).map(|(x, d)| x + step as f32 * d).collect();
                let moved = Tensor::new(moved, x.shape());
                let [q, k, v] = std::array::from_fn(|i| if i == n { &moved } else { [&q, &k, &v][i] });
                let y = Tape::off().attention(q, k, v, Some(75));
                y.data().iter().zip(w.data()).map(|(y, w)| f64::from(y * w)).sum()
            };
            let numeric = (objective(1e-3) - objective(-1e-3)) / 2e-3;
            let gradient = grads.get(x).unwrap().data();
            let analytic: f64 = gradient.iter().zip(direction.data()).map(|(g, d)| f64::from(g * d)).sum();
            assert!((analytic - numeric).abs() < 1e-2 * (1.0 + numeric.abs()), "{n}: {analytic} {numeric}");
        }
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        for (t, h, kvh, d, window) in [
            (1, 1, 1, 64, None),
            (150, 4, 2, 64, None),
            (128, 1, 1, 128, None),
            (200, 2, 1, 128, Some(37)),
            (130, 3, 3, 128, Some(1)),
            (333, 4, 1, 128, Some(129)),
            (512, 2, 2, 128, None),
        ] {
            let inputs = inputs(t, h, kvh, d);
            assert_gpu_agrees(&inputs, 3, |tape, v| tape.attention(&v[0], &v[1], &v[2], window));
        }
    }

    /// Tests batches of 1 and 3, lengths on both sides of a tile, grouped queries and windows, for both head sizes.
    #[test]
    fn gpu_agrees_with_the_cpu_at_odd_sizes() {
        for (b, t, h, kvh, window) in [
            (1, 2, 2, 1, None),
            (1, 63, 8, 1, None),
            (3, 65, 4, 4, Some(33)),
            (1, 127, 4, 2, Some(128)),
            (1, 129, 6, 2, Some(64)),
            (1, 257, 2, 1, None),
            (1, 384, 4, 2, Some(1_000)),
            (1, 1_025, 2, 2, Some(500)),
        ] {
            for d in [64, 128] {
                let inputs = [(h, 0), (kvh, 1), (kvh, 2)].map(|(heads, seed)| randn(&[b, t, heads, d], seed));
                assert_gpu_agrees(&inputs, 3, |tape, v| tape.attention(&v[0], &v[1], &v[2], window));
            }
        }
    }
}
