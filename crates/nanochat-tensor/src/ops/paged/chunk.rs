use std::cmp::Reverse;
use std::ops::Range;

use super::*;
use crate::ops::attention::GPU_HEAD_DIMS;

/// The number of queries in a tile of attention, as in paged_attention.cu.
const ROWS: usize = 64;
const ATTENTION_THREADS: u32 = 128;
const THREADS: u32 = 256;

/// The new tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPart<'a> {
    pub ids: &'a [u32],
    /// The position of the first of them.
    pub start: usize,
    /// The pages of the sequence, including those for these tokens.
    pub pages: &'a [u32],
}

/// The new tokens of several sequences, N in all, with the lists that kernels need. Activations have `padded` rows, a
/// number for which products are fast; the contents of rows beyond N have no meaning.
pub struct Chunk {
    on_gpu: Buffer, // u32, the lists one after another
    lists: [Range<usize>; 6],
    n: usize,
    padded: usize,
    /// One more than the largest id, position and page.
    bounds: [usize; 3],
}

/// The lists of a chunk.
#[derive(Clone, Copy)]
enum List {
    /// Token ids (padded); zeros beyond N.
    Ids,
    /// (N)
    Positions,
    /// (N) page · PAGE + position in the page.
    Slots,
    /// (kept) rows whose hidden states are wanted in the end.
    Kept,
    /// (tiles, 4) up to ROWS queries of one sequence: first row, count, position, and where its pages begin in `Pages`.
    Tiles,
    Pages,
}

impl Chunk {
    /// Builds a chunk. `kept` are the tokens, of the N, whose hidden states are wanted in the end.
    #[track_caller]
    pub fn new(device: &Device, parts: &[ChunkPart], kept: &[usize]) -> Chunk {
        let Device::Gpu(gpu) = device else { panic!("chunks are for a GPU") };
        let n: usize = parts.iter().map(|part| part.ids.len()).sum();
        let padded = n.next_multiple_of(if n <= 128 { 8 } else { 128 });
        assert!(kept.iter().all(|&row| row < n), "rows to keep outside {n}");
        let [mut ids, mut positions, mut slots] = [(); 3].map(|()| Vec::with_capacity(padded));
        let (mut tiles, mut pages) = (Vec::new(), Vec::new());
        for part in parts {
            let end = part.start + part.ids.len();
            assert!(part.pages.len() * PAGE >= end, "{} pages for {end} tokens", part.pages.len());
            for first in (0..part.ids.len()).step_by(ROWS) {
                let count = ROWS.min(part.ids.len() - first);
                tiles.push([ids.len() + first, count, part.start + first, pages.len()].map(|n| n as u32));
            }
            ids.extend_from_slice(part.ids);
            positions.extend((part.start..end).map(|n| n as u32));
            let slot = |n: usize| part.pages[n / PAGE] * PAGE as u32 + (n % PAGE) as u32;
            slots.extend((part.start..end).map(slot));
            pages.extend_from_slice(part.pages);
        }
        // Tiles that see the most keys go first, so that no long block is left over at the end.
        tiles.sort_by_key(|&[_, count, position, _]| Reverse(position + count));
        let bounds =
            [&ids, &positions, &pages].map(|list| list.iter().max().map_or(0, |&most| most as usize + 1));
        ids.resize(padded, 0);
        let kept: Vec<u32> = kept.iter().map(|&row| row as u32).collect();
        let mut all = Vec::new();
        let lists = [&ids[..], &positions, &slots, &kept, tiles.as_flattened(), &pages].map(|list| {
            let start = all.len();
            all.extend_from_slice(list);
            all.resize(all.len().next_multiple_of(4), 0); // a tile is read as 16 bytes
            start..start + list.len()
        });
        Chunk { on_gpu: gpu.upload(&all), lists, n, padded, bounds }
    }

    /// wte (V, C) bf16 -> the norms of the tokens' embeddings (padded, C)
    #[track_caller]
    pub fn embed(&self, wte: &Tensor, eps: f32) -> Tensor {
        assert!(self.bounds[0] <= wte.rows(), "a token outside {:?}", wte.shape());
        rms_norm::cuda::forward_rows(&self.gpu(), wte, self.at(List::Ids), self.padded, eps)
    }

    /// x (padded, C) -> the norms of the kept rows (kept, C)
    #[track_caller]
    pub fn keep(&self, x: &Tensor, eps: f32) -> Tensor {
        assert_eq!(x.rows(), self.padded, "keep: x {:?}", x.shape());
        rms_norm::cuda::forward_rows(&self.gpu(), x, self.at(List::Kept), self.len(List::Kept), eps)
    }

    /// Rotates and norms the queries and keys in qkv (padded, (H + 2 KVH) · D). Keys and values are written into the
    /// pages; the queries stay in qkv.
    #[track_caller]
    pub fn enter(&self, qkv: &mut Tensor, table: &RotaryTable, cache: &mut PagedKv, layer: usize, eps: f32) {
        let (h, kvh, d) = self.heads(qkv, cache);
        assert_eq!(table.head_dim(), d, "enter: the table is of another head_dim");
        let [_, last, pages] = self.bounds;
        assert!(
            last <= table.positions() && pages <= cache.pages(),
            "a position or a page that is not there"
        );
        let (gpu, heads) = (self.gpu(), self.n * (h + 2 * kvh));
        let [cos, sin] = table.on_gpu(&gpu);
        let launch = gpu.kernel(sources::paged, &format!("paged_enter_{d}")).slice(qkv.slice_mut());
        let launch = launch.slice(cache.k(layer)).slice(cache.v(layer)).slice(cos.slice()).slice(sin.slice());
        let launch = launch.slice(self.at(List::Positions)).slice(self.at(List::Slots));
        let launch = launch.u32(h).u32(kvh).u32(heads).f32(eps);
        // SAFETY: qkv holds a head for each D / 8 threads; positions and pages are inside table and cache; the caller
        // guarantees that parts with a page in common do not write to it.
        unsafe { launch.run(blocks(heads * d / 8, THREADS), THREADS, 0) }
    }

    /// qkv (padded, (H + 2 KVH) · D) -> attention of its queries over their sequences' pages (padded, H · D)
    #[track_caller]
    pub fn attend(&self, qkv: &Tensor, cache: &PagedKv, layer: usize) -> Tensor {
        let (h, kvh, d) = self.heads(qkv, cache);
        assert!(self.bounds[2] <= cache.pages(), "a page that is not there");
        let gpu = self.gpu();
        let y = Tensor::unwritten(&gpu, Dtype::Bf16, &[self.padded, h * d]);
        let launch = gpu.kernel(sources::paged_attention, &format!("paged_attention_{d}")).slice(y.slice());
        let launch = launch.slice(qkv.bf16_slice()).slice(cache.k(layer)).slice(cache.v(layer));
        let launch = launch.slice(self.at(List::Tiles)).slice(self.at(List::Pages));
        let launch = launch.u32(h).u32(kvh).f32((d as f32).sqrt().recip());
        let (tiles, bytes) = (self.len(List::Tiles) / 4, 5 * ROWS * d * Dtype::Bf16.bytes());
        // SAFETY: a block for each tile and head; the tiles' rows are below N, and their pages in the cache.
        unsafe { launch.run([h, tiles, 1], ATTENTION_THREADS, bytes as u32) }
        y
    }

    #[track_caller]
    fn heads(&self, qkv: &Tensor, cache: &PagedKv) -> (usize, usize, usize) {
        let (kvh, d) = (cache.kv_heads(), cache.head_dim());
        assert!(GPU_HEAD_DIMS.contains(&d), "attention on CUDA: head_dim {d}; {GPU_HEAD_DIMS:?} work");
        let h = (qkv.cols() / d).saturating_sub(2 * kvh);
        assert!(
            qkv.rows() == self.padded && qkv.cols() == (h + 2 * kvh) * d && h > 0 && h.is_multiple_of(kvh),
            "qkv {:?} of {} tokens for {kvh} key heads of {d}",
            qkv.shape(),
            self.padded
        );
        (h, kvh, d)
    }

    fn gpu(&self) -> Gpu {
        self.on_gpu.gpu().clone()
    }

    fn at(&self, list: List) -> Slice<'_> {
        self.on_gpu.slice().from(self.lists[list as usize].start)
    }

    fn len(&self, list: List) -> usize {
        self.lists[list as usize].len()
    }
}
