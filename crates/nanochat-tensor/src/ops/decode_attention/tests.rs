use std::sync::Arc;

use half::bf16;

use super::*;
use crate::ops::attention_with_kv_cache::{CachedRow, KvPages};
use crate::testing::{BF16_TOLERANCE, assert_relative, gpu, randn};
use crate::{Rng, Tape};

/// A sequence's q, k and v before rotation (T, H + 2 KVH, D), and its pages. The last token is the new one.
struct Sequence {
    qkv: Tensor,
    pages: Vec<u32>,
}

/// Sequences whose pages are scattered over a cache of `PAGES` pages, and the sizes of the heads.
struct Case {
    h: usize,
    kvh: usize,
    d: usize,
    table: Arc<RotaryTable>,
    sequences: Vec<Sequence>,
}

/// An eps large enough to make a difference in bf16.
const EPS: f32 = 0.5;
const PAGES: usize = 256;
const LAYERS: usize = 2;

impl Case {
    /// Makes the sequences of `groups`, each (lengths, number of first tokens that the group shares).
    fn new([h, kvh, d]: [usize; 3], groups: &[(&[usize], usize)]) -> Case {
        let mut free: Vec<u32> = (0..PAGES as u32).collect();
        Rng::new(&[4]).shuffle(&mut free);
        let (mut sequences, mut seed) = (Vec::<Sequence>::new(), 0);
        for (lengths, together) in groups {
            let first = sequences.len();
            for &t in *lengths {
                seed += 1;
                let mut values = rounded(&randn(&[t, h + 2 * kvh, d], seed)).data().to_vec();
                let mut pages = free.split_off(free.len() - t.div_ceil(PAGE));
                if let Some(other) = sequences.get(first) {
                    let same = together * (h + 2 * kvh) * d;
                    values[..same].copy_from_slice(&other.qkv.data()[..same]);
                    pages[..together / PAGE].copy_from_slice(&other.pages[..together / PAGE]);
                }
                sequences.push(Sequence { qkv: Tensor::new(values, &[t, h + 2 * kvh, d]), pages });
            }
        }
        Case { h, kvh, d, table: RotaryTable::new(2_048, d, 10_000.0), sequences }
    }

    /// Returns (rotated q, rotated k, v) of a sequence, each (T, heads, D).
    fn parts(&self, sequence: &Sequence) -> [Tensor; 3] {
        let &Case { h, kvh, d, .. } = self;
        let t = sequence.qkv.shape()[0];
        let some = |from: usize, n: usize| {
            let rows = sequence.qkv.data().chunks_exact((h + 2 * kvh) * d);
            Tensor::new(rows.flat_map(|row| row[from * d..][..n * d].to_vec()).collect(), &[1, t, n, d])
        };
        let positions = (0..t).collect();
        let rotated = |x: Tensor| rounded(&Tape::off().rotary_qk_norm(&x, &self.table, &positions, EPS));
        [rotated(some(0, h)), rotated(some(h, kvh)), some(h + kvh, kvh)]
    }

    /// Returns the attention of a sequence's last token (H D), computed by the CPU's op.
    fn on_cpu(&self, sequence: &Sequence) -> Vec<f32> {
        let &Case { h, kvh, d, .. } = self;
        let ([q, k, v], t) = (self.parts(sequence), sequence.qkv.shape()[0]);
        let mut cache = KvPages::new(kvh, d);
        cache.grow(PAGES);
        for (u, (k, v)) in k.data().chunks_exact(kvh * d).zip(v.data().chunks_exact(kvh * d)).enumerate() {
            cache.write(&sequence.pages, u, k, v);
        }
        let q = Tensor::new(q.data()[(t - 1) * h * d..].to_vec(), &[1, h, d]);
        let row = CachedRow { pages: &sequence.pages, len: t };
        Tape::off().attention_with_kv_cache(&q, &cache, &[row], None).data().to_vec()
    }

    /// Returns keys and values in the cache's layout, with the last tokens or without; everything else is NaN.
    fn cache(&self, with_last: bool) -> [Vec<bf16>; 2] {
        let &Case { kvh, d, .. } = self;
        let mut all = [(); 2].map(|()| vec![bf16::NAN; PAGES * kvh * PAGE * d]);
        for sequence in &self.sequences {
            let [_, k, v] = self.parts(sequence);
            for u in 0..sequence.qkv.shape()[0] - usize::from(!with_last) {
                for head in 0..kvh {
                    let page = sequence.pages[u / PAGE] as usize;
                    let to = ((page * kvh + head) * PAGE + u % PAGE) * d;
                    for (all, new) in all.iter_mut().zip([&k, &v]) {
                        let values = new.data()[(u * kvh + head) * d..][..d].iter();
                        all[to..to + d].iter_mut().zip(values).for_each(|(to, x)| *to = bf16::from_f32(*x));
                    }
                }
            }
        }
        all
    }

    /// Returns y (sequences, H D), the cache afterwards, and the step's shape.
    fn on_gpu(&self, device: &Device) -> (Vec<f32>, [Vec<bf16>; 2], Shape) {
        let &Case { h, kvh, d, .. } = self;
        let Device::Gpu(gpu) = device else { unreachable!() };
        let cache = PagedKv::new(device, LAYERS, PAGES, kvh, d);
        let layer = LAYERS - 1;
        for (address, values) in [cache.k(layer), cache.v(layer)].into_iter().zip(self.cache(false)) {
            gpu.overwrite(address, &bits(&values));
        }
        let wte = Tensor::zeros(&[10, 8]).to_device(device);
        let mut rows = DecodeRows::new(&wte, h, &cache, 33, 2_048 / PAGE, EPS);
        let width = (h + 2 * kvh) * d;
        let mut qkv = vec![f32::NAN; 64 * width];
        let mut new = Vec::new();
        for (i, Sequence { qkv: values, pages }) in self.sequences.iter().enumerate() {
            let position = values.shape()[0] - 1;
            qkv[i * width..][..width].copy_from_slice(&values.data()[position * width..]);
            new.push(DecodeRow { token: i as u32 % 10, position, pages });
        }
        let shape = rows.set(&new);
        let qkv = Tensor::new(qkv, &[64, width]).to_device(device).to_activation();
        let mut y = Tensor::zeros(&[64, h * d]).to_device(device).to_activation();
        // Runs twice, since the counters that a step leaves behind must be right for the next one.
        for _ in 0..2 {
            decode_attention(&mut y, &qkv, &cache, layer, &self.table, &rows, shape);
        }
        let after = [cache.k(layer), cache.v(layer)].map(|address| {
            let mut bits = vec![0u16; PAGES * kvh * PAGE * d];
            gpu.download(address, &mut bits);
            bits.into_iter().map(bf16::from_bits).collect()
        });
        (y.host()[..self.sequences.len() * h * d].to_vec(), after, shape)
    }

    #[track_caller]
    fn check(&self, device: &Device, tiles: usize) {
        let (y, after, shape) = self.on_gpu(device);
        assert_eq!(shape.tiles, tiles, "tiles of rows that share pages");
        let width = self.h * self.d;
        for (i, sequence) in self.sequences.iter().enumerate() {
            let name = format!(
                "D {}, heads {}/{}, row {i}, length {}",
                self.d,
                self.h,
                self.kvh,
                sequence.qkv.shape()[0]
            );
            assert_relative(&name, &y[i * width..][..width], &self.on_cpu(sequence), BF16_TOLERANCE);
        }
        // The new tokens were written, and nothing else was.
        for (after, want) in after.iter().zip(self.cache(true)) {
            for (got, want) in after.iter().zip(&want) {
                let (got, want) = (got.to_f32(), want.to_f32());
                assert!(
                    (got.is_nan() && want.is_nan()) || (got - want).abs() <= 0.02 * (0.1 + want.abs()),
                    "cache: {got}, {want}"
                );
            }
        }
    }
}

const HEADS: [[usize; 3]; 5] = [[10, 10, 128], [4, 2, 64], [3, 3, 64], [8, 1, 128], [16, 1, 64]];

fn rounded(x: &Tensor) -> Tensor {
    Tensor::new(x.data().iter().map(|&v| bf16::from_f32(v).to_f32()).collect(), x.shape())
}

fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Tests lengths around the borders of slices and pages: each row alone, where it is split most, and all together.
#[test]
fn rows_on_the_gpu_attend_as_on_the_cpu() {
    let Some(device) = gpu() else { return };
    for sizes in HEADS {
        let lengths = [1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 500, 1_025, 1_088];
        for length in lengths {
            Case::new(sizes, &[(&[length], 0)]).check(&device, 0);
        }
        Case::new(sizes, &[(&lengths, 0)]).check(&device, 0);
    }
}

#[test]
fn shared_pages_count_as_each_rows_own() {
    let Some(device) = gpu() else { return };
    for sizes @ [h, kvh, _] in HEADS {
        let tiles = |rows: usize| rows.div_ceil(QUERIES * kvh / h);
        let lengths: Vec<usize> = (0..20).map(|i| 321 + 7 * i).collect();
        let groups: [(&[usize], usize); 4] =
            [(&[200], 0), (&lengths, 320), (&[65, 66, 129], 64), (&[5, 70], 0)];
        let expected = if kvh * QUERIES / h > 1 { (tiles(20) + tiles(3)).next_power_of_two() } else { 0 };
        Case::new(sizes, &groups).check(&device, expected);
    }
}
