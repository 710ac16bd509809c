//! Attention of one new token per row over the paged cache, on a GPU. Takes q, k and v straight from their product:
//! rotates and norms q and k, writes k and v into the cache, and attends.
//!
//! The time is that of reading the cache: 5.1 KB a token and layer of a d20. Each row's tokens are split over enough
//! blocks that a single row fills the card. Rows that begin with the same pages read these once, for as many rows as
//! fit in the 16 rows of an mma. A row's result depends on its own tokens and on how they are split, that is, on the
//! number of rows in the graph and on whether it shares pages, but on nothing else of the other rows.

use crate::cuda::{Cuda, sources};
use crate::gpu::{Buffer, Gpu, Ints};
use crate::ops::attention::GPU_HEAD_DIMS;
use crate::ops::attention_with_kv_cache::PAGE;
use crate::ops::rms_norm;
use crate::{Device, Dtype, PagedKv, RotaryTable, Tensor};

#[cfg(test)]
mod tests;

/// The number of queries that a block holds: the rows of an mma.
pub(crate) const QUERIES: usize = 16;
const THREADS: u32 = 128;
/// The number of blocks that fit on a multiprocessor at once, each with 72 KB of shared memory at D = 128. Splits are
/// chosen to fill all of them once: a second round for a few blocks costs as much as the first (8 rows of a d20 on an
/// H200: 15.2 µs a layer with 240 blocks where 264 fit, 20.1 µs with 320).
const RESIDENT: usize = 3;
/// The most splits of a row's own tokens and of its tile's: together at most 32, a lane of a warp for each softmax to
/// join.
const MOST_SPLITS: usize = 16;
const TILE_FIELDS: usize = 4;

/// A sequence that decodes one token.
#[derive(Clone, Copy, Debug)]
pub struct DecodeRow<'a> {
    pub token: u32,
    /// The position of the token, which is the number of tokens in the cache before it.
    pub position: usize,
    /// The pages of the sequence, including the one for the token.
    pub pages: &'a [u32],
}

/// The sizes that a step's launches are made for: the numbers of rows and of tiles that share pages, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub rows: usize,
    pub tiles: usize,
}

/// The rows of a step on the GPU: tokens, lengths and pages at fixed addresses, and scratch memory.
pub struct DecodeRows {
    gpu: Gpu,
    heads: usize,
    kv_heads: usize,
    max_rows: usize,
    max_pages: usize,
    /// The eps in the norms of q, k and embeddings.
    eps: f32,
    /// The number of tokens in the vocabulary and of pages in the cache.
    bounds: [usize; 2],
    /// ids (R), lengths (R), shared pages (R), tiles (R, TILE_FIELDS), tables (R, max_pages) with R = max_rows
    ints: Ints,
    partial: Buffer,   // (R, H, splits, D)
    softmaxes: Buffer, // (R, H, splits, 2)
    arrived: Ints,     // (R, KVH)
}

impl DecodeRows {
    /// Allocates memory for at most `max_rows` rows of at most `max_pages` pages each, for a model with the embedding
    /// wte (V, C) and `eps` in its norms.
    #[track_caller]
    pub fn new(
        wte: &Tensor,
        heads: usize,
        cache: &PagedKv,
        max_rows: usize,
        max_pages: usize,
        eps: f32,
    ) -> DecodeRows {
        let Device::Gpu(gpu) = &wte.device() else { panic!("decode steps are a GPU's") };
        let (kv_heads, d) = (cache.kv_heads(), cache.head_dim());
        assert!(GPU_HEAD_DIMS.contains(&d), "attention on CUDA: head_dim {d}; {GPU_HEAD_DIMS:?} work");
        assert!(
            heads / kv_heads <= QUERIES,
            "attention: {heads} heads for {kv_heads} key heads; at most {QUERIES} each"
        );
        let max_rows = max_rows.next_power_of_two();
        let slots = |rows: usize| {
            let shape = |tiles| Shape { rows, tiles };
            let most = (0..=rows)
                .map(|tiles| splits(gpu, shape(tiles), kv_heads))
                .map(|[own, of_tile]| own + of_tile);
            rows * heads * most.max().unwrap_or(0)
        };
        let slots = (0..=max_rows.ilog2()).map(|i| slots(1 << i)).max().unwrap_or(0);
        DecodeRows {
            gpu: gpu.clone(),
            heads,
            kv_heads,
            max_rows,
            max_pages,
            eps,
            bounds: [wte.rows(), cache.pages()],
            ints: Ints::new(gpu, max_rows * (3 + TILE_FIELDS + max_pages)),
            partial: gpu.alloc(slots * d, Dtype::F32),
            softmaxes: gpu.alloc(slots * 2, Dtype::F32),
            arrived: Ints::new(gpu, max_rows * kv_heads),
        }
    }

    /// Copies the rows of the next step to the GPU. Adjacent rows whose sequences begin with the same pages read those
    /// together.
    #[track_caller]
    pub fn set(&mut self, rows: &[DecodeRow]) -> Shape {
        assert!(!rows.is_empty() && rows.len() <= self.max_rows, "{} rows of {}", rows.len(), self.max_rows);
        let padded = rows.len().next_power_of_two();
        let (r, p) = (self.max_rows, self.max_pages);
        // The same layout as on the GPU, so that one copy is enough.
        let mut ints = vec![0; r * (3 + TILE_FIELDS) + padded * p];
        let (head, tables) = ints.split_at_mut(r * (3 + TILE_FIELDS));
        for (i, row) in rows.iter().enumerate() {
            let DecodeRow { token, position, pages } = *row;
            assert!(position / PAGE < pages.len().min(p), "position {position} of {} pages", pages.len());
            let pages = &pages[..position / PAGE + 1];
            let [vocab, all] = self.bounds;
            assert!((token as usize) < vocab, "token {token} of {vocab}");
            assert!(pages.iter().all(|&page| (page as usize) < all), "pages {pages:?} of {all}");
            head[i] = token;
            head[r + i] = position as u32 + 1;
            tables[i * p..][..pages.len()].copy_from_slice(pages);
        }
        let tiles = self.tiles(rows);
        for (i, &[row, count, pages]) in tiles.iter().enumerate() {
            head[2 * r + row..][..count].fill(pages as u32);
            head[3 * r + i * TILE_FIELDS..][..3].copy_from_slice(&[row as u32, count as u32, pages as u32]);
        }
        self.ints.write(0, &ints);
        Shape { rows: padded, tiles: if tiles.is_empty() { 0 } else { tiles.len().next_power_of_two() } }
    }

    /// x (.., C) = the norm of the tokens' rows of wte (V, C).
    pub fn embed(&self, x: &mut Tensor, wte: &Tensor, shape: Shape) {
        assert_eq!(wte.rows(), self.bounds[0], "the embedding of another model");
        rms_norm::cuda::forward_into(&self.gpu, x, wte, Some(self.ints.from(0)), shape.rows, self.eps);
    }

    /// Returns [first row, rows, shared pages] of the rows that are read together, as many to a tile as its queries
    /// allow.
    fn tiles(&self, rows: &[DecodeRow]) -> Vec<[usize; 3]> {
        let together = QUERIES * self.kv_heads / self.heads;
        let mut tiles = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let mut pages = full_pages(&rows[first]).len();
            let mut count = 1;
            for row in &rows[first + 1..] {
                let same =
                    full_pages(&rows[first]).iter().zip(full_pages(row)).take_while(|(a, b)| a == b).count();
                // A row that shares little with the others begins a tile of its own.
                if same == 0 || 2 * same < pages {
                    break;
                }
                (pages, count) = (pages.min(same), count + 1);
            }
            if count > 1 && together > 1 {
                let starts = (0..count).step_by(together);
                tiles.extend(starts.map(|i| [first + i, together.min(count - i), pages]));
            }
            first += count;
        }
        tiles
    }
}

/// Returns the pages before that of the new token.
fn full_pages<'a>(row: &DecodeRow<'a>) -> &'a [u32] {
    &row.pages[..row.position / PAGE]
}

/// Returns the number of blocks that share a row's own tokens, and a tile's.
fn splits(gpu: &Gpu, shape: Shape, kv_heads: usize) -> [usize; 2] {
    let blocks = RESIDENT * Cuda::of(gpu).multiprocessors() as usize;
    let splits = |units: usize| (blocks / (units * kv_heads).max(1)).clamp(1, MOST_SPLITS);
    // Rows that share pages have few tokens of their own.
    if shape.tiles == 0 { [splits(shape.rows), 0] } else { [1, splits(2 * shape.tiles)] }
}

/// qkv (.., (H + 2 KVH) D) -> y (.., H D) for the rows in `rows`; writes their keys and values into `layer` of the
/// cache.
#[track_caller]
pub fn decode_attention(
    y: &mut Tensor,
    qkv: &Tensor,
    cache: &PagedKv,
    layer: usize,
    table: &RotaryTable,
    rows: &DecodeRows,
    shape: Shape,
) {
    let (gpu, ints, r) = (&rows.gpu, &rows.ints, rows.max_rows);
    let (h, kvh) = (rows.heads, rows.kv_heads);
    let d = cache.head_dim();
    assert!(
        qkv.cols() == (h + 2 * kvh) * d && y.cols() == h * d,
        "attention: {:?} to {:?}",
        qkv.shape(),
        y.shape()
    );
    assert!(shape.rows <= qkv.rows().min(y.rows()), "attention: {shape:?} of {:?}", qkv.shape());
    assert!(rows.max_pages * PAGE <= table.positions(), "rotary: {} pages of positions", rows.max_pages);
    let [cos, sin] = table.on_gpu(gpu);
    let [own, of_tile] = splits(gpu, shape, kvh);
    let kernel = gpu.kernel(sources::decode_attention, &format!("decode_attention_{d}"));
    let launch =
        kernel.slice(y.slice_mut()).slice(qkv.bf16_slice()).slice(cache.k(layer)).slice(cache.v(layer));
    let launch = launch.slice(cos.slice()).slice(sin.slice()).slice(ints.from((3 + TILE_FIELDS) * r));
    let launch = launch.slice(ints.from(r)).slice(ints.from(2 * r)).slice(ints.from(3 * r));
    let launch = launch.slice(rows.partial.slice()).slice(rows.softmaxes.slice()).slice(rows.arrived.from(0));
    let launch =
        launch.u32(shape.rows).u32(h).u32(kvh).u32(rows.max_pages).u32(own).u32(of_tile).u32(shape.tiles);
    let launch = launch.f32(std::f32::consts::LOG2_E / (d as f32).sqrt()).f32(rows.eps).overlapping();
    let grid = [kvh, shape.tiles * of_tile + shape.rows * own, 1];
    // Shared memory for q, and for two stages of keys and values of 16 tokens for each of four warps.
    let shared = (1 + 4 * 2 * 2) * 16 * d * 2;
    // SAFETY: `set` wrote lengths and tables of existing pages for all rows of the shape, and `new` allocated the parts
    // of every shape. Pages that rows share are not written.
    unsafe { launch.run(grid, THREADS, shared as u32) }
}
