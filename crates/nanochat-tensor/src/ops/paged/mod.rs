//! The paged cache of keys and values on a GPU (PagedAttention, Kwon et al. 2023), and steps of many sequences over it.
//!
//! A [`Chunk`] holds the new tokens of any number of sequences, one after another without padding between them:
//! prompts, the rest of a prompt whose beginning is in the cache, or one token each. It is for generation only; nothing
//! is recorded for a backward pass.

use crate::cuda::sources;
use crate::gpu::{Buffer, Gpu, Slice, blocks, fail};
use crate::ops::attention_with_kv_cache::PAGE;
use crate::ops::rms_norm;
use crate::{Device, Dtype, RotaryTable, Tensor};
use std::ops::{Range, RangeInclusive};

mod chunk;
#[cfg(test)]
mod tests;

pub use chunk::{Chunk, ChunkPart};

/// The keys and values of all layers in bf16, each (layers, pages, KVH, PAGE, D). Their addresses never change.
pub struct PagedKv {
    k: Buffer,
    v: Buffer,
    shape: [usize; 5],
}

impl PagedKv {
    pub fn page_bytes(layers: usize, kv_heads: usize, head_dim: usize) -> usize {
        2 * layers * kv_heads * PAGE * head_dim * Dtype::Bf16.bytes()
    }

    /// Allocates `pages` pages on a GPU.
    #[track_caller]
    pub fn new(device: &Device, layers: usize, pages: usize, kv_heads: usize, head_dim: usize) -> PagedKv {
        let Device::Gpu(gpu) = device else { panic!("this cache lies on a GPU; `KvPages` is the CPU's") };
        let shape = [layers, pages, kv_heads, PAGE, head_dim];
        let [k, v] = [(); 2].map(|()| gpu.alloc(shape.iter().product(), Dtype::Bf16));
        PagedKv { k, v, shape }
    }

    /// Allocates as many of the pages as fit in free memory with an eighth of it left for the steps. Fails with a
    /// message if fewer fit than the range allows.
    pub fn that_fits(
        device: &Device,
        layers: usize,
        pages: RangeInclusive<usize>,
        kv_heads: usize,
        head_dim: usize,
    ) -> PagedKv {
        let Device::Gpu(gpu) = device else { panic!("this cache lies on a GPU; `KvPages` is the CPU's") };
        let (free, page_bytes) = (gpu.free_bytes(), PagedKv::page_bytes(layers, kv_heads, head_dim));
        let fit = (free - free / 8) / page_bytes;
        if fit < *pages.start() {
            let [needed, free] = [pages.start() * page_bytes, free].map(|bytes| bytes.div_ceil(1 << 20));
            fail(format!(
                "the GPU has {free} MiB left, too little for the {needed} MiB of keys and values of one text of full length; end other programs that use it, or use --device cpu"
            ));
        }
        PagedKv::new(device, layers, fit.min(*pages.end()), kv_heads, head_dim)
    }

    pub fn layers(&self) -> usize {
        self.shape[0]
    }

    pub fn pages(&self) -> usize {
        self.shape[1]
    }

    pub fn kv_heads(&self) -> usize {
        self.shape[2]
    }

    pub fn head_dim(&self) -> usize {
        self.shape[4]
    }

    /// Returns one layer's keys (pages, KVH, PAGE, D).
    pub(crate) fn k(&self, layer: usize) -> Slice<'_> {
        self.k.slice().part(self.values_of(layer))
    }

    /// Returns one layer's values (pages, KVH, PAGE, D).
    pub(crate) fn v(&self, layer: usize) -> Slice<'_> {
        self.v.slice().part(self.values_of(layer))
    }

    fn values_of(&self, layer: usize) -> Range<usize> {
        assert!(layer < self.shape[0], "layer {layer} of {}", self.shape[0]);
        layer * self.layer_values()..(layer + 1) * self.layer_values()
    }

    fn layer_values(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Copies pages, `[from, to]` each, in every layer. No page may be the target of one copy and the source of
    /// another.
    #[track_caller]
    pub fn copy_pages(&mut self, copies: &[[u32; 2]]) {
        assert!(
            copies.iter().flatten().all(|&page| (page as usize) < self.pages()),
            "pages to copy: {copies:?}"
        );
        let gpu = self.k.gpu().clone();
        let on_gpu = gpu.upload(copies.as_flattened());
        let page = self.shape[2..].iter().product();
        let launch = gpu.kernel(sources::paged, "paged_copy").slice(self.k.slice()).slice(self.v.slice());
        let launch = launch.slice(on_gpu.slice()).u64(self.layer_values()).u32(page);
        // SAFETY: all pages exist; a block for each copy and layer.
        unsafe { launch.run([copies.len(), self.shape[0], 1], 256, 0) }
    }
}
