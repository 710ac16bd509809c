use std::sync::Arc;

use super::*;
use crate::ops::attention_with_kv_cache::{CachedRow, KvPages};
use crate::testing::{BF16_TOLERANCE, assert_relative, gpu, randn};
use crate::{Rng, Tape};

/// An eps large enough to make a difference in bf16.
const EPS: f32 = 0.5;

/// A sequence of T tokens: their q, k and v before rotation, and its pages.
struct Sequence {
    qkv: Tensor, // (T, H + 2 KVH, D)
    pages: Vec<u32>,
}

struct Sizes {
    h: usize,
    kvh: usize,
    d: usize,
    pages: usize,
}

/// Makes sequences of the given lengths over scattered pages.
fn sequences(lengths: &[usize], sizes: &Sizes) -> Vec<Sequence> {
    let mut free: Vec<u32> = (0..sizes.pages as u32).collect();
    Rng::new(&[4]).shuffle(&mut free);
    let sequence = |(i, &t): (usize, &usize)| Sequence {
        qkv: rounded(&randn(&[t, sizes.h + 2 * sizes.kvh, sizes.d], i as u64)),
        pages: free.split_off(free.len() - t.div_ceil(PAGE)),
    };
    lengths.iter().enumerate().map(sequence).collect()
}

fn rounded(x: &Tensor) -> Tensor {
    let round = |&x: &f32| half::bf16::from_f32(x).to_f32();
    Tensor::new(x.data().iter().map(round).collect(), x.shape())
}

/// Returns the attention of the tokens from `start` on, (T - start, H, D), computed by the CPU's ops.
fn on_cpu(sequence: &Sequence, start: usize, table: &Arc<RotaryTable>, sizes: &Sizes) -> Vec<f32> {
    let &Sizes { h, kvh, d, pages } = sizes;
    let (t, heads) = (sequence.qkv.shape()[0], h + 2 * kvh);
    let some = |from: usize, n: usize| {
        let rows = sequence.qkv.data().chunks_exact(heads * d);
        Tensor::new(rows.flat_map(|row| row[from * d..][..n * d].to_vec()).collect(), &[1, t, n, d])
    };
    let positions = (0..t).collect();
    let rotated = |x: Tensor| rounded(&Tape::off().rotary_qk_norm(&x, table, &positions, EPS));
    let (q, k, v) = (rotated(some(0, h)), rotated(some(h, kvh)), some(h + kvh, kvh));
    let mut cache = KvPages::new(kvh, d);
    cache.grow(pages);
    for (u, (k, v)) in k.data().chunks_exact(kvh * d).zip(v.data().chunks_exact(kvh * d)).enumerate() {
        cache.write(&sequence.pages, u, k, v);
    }
    let rows: Vec<CachedRow> = (start + 1..=t).map(|len| CachedRow { pages: &sequence.pages, len }).collect();
    let q = Tensor::new(q.data()[start * h * d..].to_vec(), &[t - start, h, d]);
    Tape::off().attention_with_kv_cache(&q, &cache, &rows, None).data().to_vec()
}

/// Runs the tokens of every sequence from `starts` to `ends` as one chunk; returns the attention of each.
fn run(
    cache: &mut PagedKv,
    sequences: &[Sequence],
    starts: &[usize],
    ends: &[usize],
    table: &RotaryTable,
    device: &Device,
) -> Vec<Vec<f32>> {
    let ids = vec![0; 1_000];
    let part = |i: usize| {
        let part = ChunkPart { ids: &ids[starts[i]..ends[i]], start: starts[i], pages: &sequences[i].pages };
        (starts[i] < ends[i]).then_some(part)
    };
    let parts: Vec<ChunkPart> = (0..sequences.len()).filter_map(part).collect();
    let chunk = Chunk::new(device, &parts, &[]);
    let width = sequences[0].qkv.len() / sequences[0].qkv.shape()[0];
    let mut values = Vec::new();
    for (i, sequence) in sequences.iter().enumerate() {
        values.extend_from_slice(&sequence.qkv.data()[starts[i] * width..ends[i] * width]);
    }
    let n = values.len() / width;
    let padded = n.next_multiple_of(if n <= 128 { 8 } else { 128 });
    values.resize(padded * width, f32::NAN); // nobody's
    let mut qkv = Tensor::new(values, &[padded, width]).to_device(device).to_activation();
    for layer in (0..cache.layers()).rev() {
        let mut qkv = qkv.clone();
        chunk.enter(&mut qkv, table, cache, layer, EPS); // only the last counts: each layer has the same
    }
    chunk.enter(&mut qkv, table, cache, 0, EPS);
    let y = chunk.attend(&qkv, cache, 0);
    let (y, width) = (y.host(), y.cols());
    let mut at = 0;
    let of_sequence = |i: usize| {
        let from = at * width;
        at += ends[i] - starts[i];
        y[from..at * width].to_vec()
    };
    (0..sequences.len()).map(of_sequence).collect()
}

/// Tests lengths around the borders of pages and tiles, several sequences in a chunk; each in one piece, then in three.
#[test]
fn chunks_on_the_gpu_attend_as_the_cpu_does() {
    let Some(device) = gpu() else { return };
    for (h, kvh, d) in [(4, 2, 64), (3, 3, 128), (8, 1, 128)] {
        let sizes = Sizes { h, kvh, d, pages: 40 };
        let table = RotaryTable::new(512, d, 10_000.0);
        for lengths in [&[1][..], &[63, 1, 64, 65, 129, 200], &[300, 17, 400]] {
            let sequences = sequences(lengths, &sizes);
            let mut cache = PagedKv::new(&device, 2, sizes.pages, kvh, d);
            let cuts = [0.0, 0.4, 0.41, 1.0].map(|share: f64| {
                lengths.iter().map(|&t| (share * t as f64) as usize).collect::<Vec<usize>>()
            });
            let pieces: Vec<_> = cuts
                .windows(2)
                .map(|cut| run(&mut cache, &sequences, &cut[0], &cut[1], &table, &device))
                .collect();
            let mut cache = PagedKv::new(&device, 2, sizes.pages, kvh, d);
            let whole = run(&mut cache, &sequences, &cuts[0], &cuts[3], &table, &device);
            for (i, sequence) in sequences.iter().enumerate() {
                let want = on_cpu(sequence, 0, &table, &sizes);
                assert_relative("whole", &whole[i], &want, BF16_TOLERANCE);
                let joined: Vec<f32> = pieces.iter().flat_map(|piece| piece[i].clone()).collect();
                assert_relative("pieces", &joined, &want, BF16_TOLERANCE);
            }
        }
    }
}

#[test]
fn pages_are_copied_in_every_layer() {
    let Some(device) = gpu() else { return };
    let sizes = Sizes { h: 2, kvh: 2, d: 64, pages: 9 };
    let (table, sequences) = (RotaryTable::new(512, 64, 10_000.0), sequences(&[100], &sizes));
    let mut cache = PagedKv::new(&device, 3, sizes.pages, 2, 64);
    let before = run(&mut cache, &sequences, &[0], &[100], &table, &device);
    let [a, b] = sequences[0].pages[..] else { unreachable!() };
    let free: Vec<u32> = (0..9).filter(|page| ![a, b].contains(page)).collect();
    cache.copy_pages(&[[a, free[3]], [b, free[0]]]);
    // Runs the last token alone over the copies, in every layer.
    let qkv = sequences[0].qkv.data();
    let last = Tensor::new([&qkv[99 * 384..], &vec![0.0; 7 * 384]].concat(), &[8, 384]);
    let part = ChunkPart { ids: &[0], start: 99, pages: &[free[3], free[0]] };
    let chunk = Chunk::new(&device, &[part], &[]);
    for layer in 0..3 {
        let mut qkv = last.to_device(&device).to_activation();
        chunk.enter(&mut qkv, &table, &mut cache, layer, EPS);
        let y = chunk.attend(&qkv, &cache, layer);
        assert_relative("copied", &y.host()[..128], &before[0][99 * 128..], BF16_TOLERANCE);
    }
}
