//! Attention of new tokens over a paged cache of keys and values (PagedAttention, Kwon et al. 2023) on the CPU. The
//! GPU's cache is in `ops/paged`.
//!
//! A sequence's cache is a list of pages anywhere in the pool, so a sequence grows without being moved, and sequences
//! with a common prompt can share its pages.

use crate::{Tape, Tensor};

mod cpu;

/// The number of tokens in a page.
pub const PAGE: usize = 64;

/// The pool of pages of one layer: keys (pages, KVH, D, PAGE) and values (pages, KVH, PAGE, D). With the tokens of
/// a page side by side, the scores of a query need no sums across lanes.
pub struct KvPages {
    kv_dim: usize,
    head_dim: usize,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The tokens that one new token sees: the pages of its sequence and the number of tokens in them, itself included.
#[derive(Clone, Copy)]
pub struct CachedRow<'a> {
    pub pages: &'a [u32],
    pub len: usize,
}

impl KvPages {
    pub fn new(kv_heads: usize, head_dim: usize) -> KvPages {
        KvPages { kv_dim: kv_heads * head_dim, head_dim, k: Vec::new(), v: Vec::new() }
    }

    /// Allocates memory for `pages` pages in all.
    pub fn grow(&mut self, pages: usize) {
        self.k.resize(pages * PAGE * self.kv_dim, 0.0);
        self.v.resize(pages * PAGE * self.kv_dim, 0.0);
    }

    /// Stores the key and value (KVH, D) of the token at `position` of a sequence.
    #[track_caller]
    pub fn write(&mut self, pages: &[u32], position: usize, k: &[f32], v: &[f32]) {
        let (page, slot) = (pages[position / PAGE] as usize, position % PAGE);
        let keys = &mut self.k[page * PAGE * self.kv_dim..][..PAGE * self.kv_dim];
        keys.iter_mut().skip(slot).step_by(PAGE).zip(k).for_each(|(key, k)| *key = *k);
        let values = &mut self.v[page * PAGE * self.kv_dim..][..PAGE * self.kv_dim];
        for (values, v) in values.chunks_exact_mut(PAGE * self.head_dim).zip(v.chunks_exact(self.head_dim)) {
            values[slot * self.head_dim..][..self.head_dim].copy_from_slice(v);
        }
    }

    /// Copies one page onto another, for a shared page that one sequence is about to change.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let len = PAGE * self.kv_dim;
        let (from, to) = (from as usize * len, to as usize * len);
        self.k.copy_within(from..from + len, to);
        self.v.copy_within(from..from + len, to);
    }

    /// Returns the keys (D, PAGE) of one head in a page.
    #[inline(always)]
    fn keys(&self, page: u32, head: usize) -> &[f32] {
        let len = PAGE * self.head_dim;
        &self.k[page as usize * PAGE * self.kv_dim + head * len..][..len]
    }

    /// Returns the values (PAGE, D) of one head in a page.
    #[inline(always)]
    fn values(&self, page: u32, head: usize) -> &[f32] {
        let len = PAGE * self.head_dim;
        &self.v[page as usize * PAGE * self.kv_dim + head * len..][..len]
    }
}

impl Tape {
    /// q (N, H, D), one row of the cache for each -> (N, H, D). The keys and values of the new tokens must be in the
    /// cache already. Not differentiable: for generation only.
    #[track_caller]
    pub fn attention_with_kv_cache(
        &self,
        q: &Tensor,
        cache: &KvPages,
        rows: &[CachedRow],
        window: Option<usize>,
    ) -> Tensor {
        let &[n, _, d] = q.shape() else { panic!("attention wants q (N, H, D), found {:?}", q.shape()) };
        assert!(!self.is_recording(), "attention_with_kv_cache has no backward; use Tape::off()");
        assert_eq!(n, rows.len(), "attention: a cache row for each of {n} queries");
        assert_eq!(cache.head_dim, d, "attention: the cache has another head_dim");
        Tensor::new(cpu::forward(q, cache, rows, window.unwrap_or(usize::MAX)), q.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, randn};

    #[test]
    fn equals_attention_without_a_cache_over_scattered_pages() {
        let (t, h, kvh, d) = (150, 4, 2, 72);
        for window in [None, Some(70)] {
            let (q, k, v) = (randn(&[1, t, h, d], 0), randn(&[1, t, kvh, d], 1), randn(&[1, t, kvh, d], 2));
            let want = Tape::off().attention(&q, &k, &v, window);
            let (mut cache, pages) = (KvPages::new(kvh, d), [4, 1, 3]);
            cache.grow(5);
            for u in 0..t {
                let row = u * kvh * d..(u + 1) * kvh * d;
                cache.write(&pages, u, &k.data()[row.clone()], &v.data()[row]);
            }
            let rows: Vec<CachedRow> = (1..=t).map(|len| CachedRow { pages: &pages, len }).collect();
            let y = Tape::off().attention_with_kv_cache(&q.reshape(&[t, h, d]), &cache, &rows, window);
            assert_close(y.data(), want.data(), 1e-5);
            // Alone, a row gives the same bits.
            for n in [0, 5, 63, 64, 149] {
                let q = Tensor::new(q.data()[n * h * d..(n + 1) * h * d].to_vec(), &[1, h, d]);
                let alone = Tape::off().attention_with_kv_cache(&q, &cache, &rows[n..n + 1], window);
                assert_eq!(alone.data(), &y.data()[n * h * d..(n + 1) * h * d]);
            }
        }
    }
}
