//! Weight matrices for generation in f32, bf16 or int8, laid out for products with few rows, whose speed is bound by
//! memory bandwidth.
//!
//! y = x wᵀ with x (N, in) in f32. Every output is a sum in 16 lanes, always in the same order, so a row of x gives the
//! same bits alone and among a thousand; the products of `gemm` do not guarantee this.
//!
//! Four outputs lie side by side in panels of blocks, (out / 4, in / 32, 4, 32), so that a thread reads one stream. If
//! the rows of four outputs were read separately, the prefetcher would start anew at every row and half the bandwidth
//! would be lost.
//!
//! int8: w ≈ q · max|w| / 127 with one factor for each output (absmax as in LLM.int8(), Dettmers et al. 2022).

mod block;

use rayon::prelude::*;

use crate::Dtype;
use crate::simd::LANES;
use crate::simd16::{self, Kernel, Simd};
use block::{Bf16, Block, F32, Int8};

/// The number of inputs in a block: two vectors.
const BLOCK: usize = 2 * LANES;

/// The number of outputs in a panel.
const OUTS: usize = 4;

/// The number of rows of x that use a loaded weight: 6 x 4 sums and their operands fill the 32 registers.
const ROWS: usize = 6;

/// The number of rows of x that stay in L2 while a thread goes over its panels.
const ROWS_IN_L2: usize = 8 * ROWS;

/// The bytes of weights that one thread takes at a time.
const UNIT_BYTES: usize = 128 << 10;

/// A packed matrix (out, in).
#[derive(Clone)]
pub struct Packed {
    out: usize,
    inp: usize,
    panels: PackedPanels,
}

/// (out / 4, in / 32) times four blocks, padded with zeros where the sizes are no multiples; int8 adds a factor for
/// each output.
#[derive(Clone)]
enum PackedPanels {
    F32(Vec<[F32; OUTS]>),
    Bf16(Vec<[Bf16; OUTS]>),
    Int8(Vec<[Int8; OUTS]>, Vec<f32>),
}

impl Packed {
    /// Packs w (out, in).
    pub fn new(w: &[f32], [out, inp]: [usize; 2], dtype: Dtype) -> Packed {
        assert_eq!(w.len(), out * inp, "data does not fill ({out}, {inp})");
        let panels = match dtype {
            Dtype::F32 => PackedPanels::F32(pack(w, inp, |_| 1.0)),
            Dtype::Bf16 => PackedPanels::Bf16(pack(w, inp, |_| 1.0)),
            Dtype::Int8 => {
                let factors = w.par_chunks(inp).map(int8_factor).collect::<Vec<f32>>();
                PackedPanels::Int8(pack(w, inp, |o| factors[o].recip()), factors)
            }
            Dtype::U32 => dtype.has_no("packed matrix"),
        };
        Packed { out, inp, panels }
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.out, self.inp]
    }

    /// Returns the bytes of weights that a product reads.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            PackedPanels::F32(panels) => size_of_val(&panels[..]),
            PackedPanels::Bf16(panels) => size_of_val(&panels[..]),
            PackedPanels::Int8(panels, factors) => size_of_val(&panels[..]) + size_of_val(&factors[..]),
        }
    }

    /// x (N, in) -> y (N, out)
    pub fn product(&self, x: &[f32], n: usize) -> Vec<f32> {
        assert_eq!(x.len(), n * self.inp, "x does not hold {n} rows of {}", self.inp);
        let padded = (!self.inp.is_multiple_of(BLOCK)).then(|| pad_rows(x, self.inp));
        let x = padded.as_deref().unwrap_or(x).as_chunks::<LANES>().0.as_chunks::<2>().0;
        match &self.panels {
            PackedPanels::F32(panels) => self.multiply(x, n, panels),
            PackedPanels::Bf16(panels) => self.multiply(x, n, panels),
            PackedPanels::Int8(panels, factors) => {
                let mut y = self.multiply(x, n, panels);
                y.par_chunks_mut(self.out).for_each(|y| y.iter_mut().zip(factors).for_each(|(y, f)| *y *= f));
                y
            }
        }
    }

    fn multiply<B: Block>(&self, x: &[[[f32; LANES]; 2]], n: usize, panels: &[[B; OUTS]]) -> Vec<f32> {
        let blocks = self.inp.div_ceil(BLOCK);
        let panels_in_unit = (UNIT_BYTES / (blocks * size_of::<[B; OUTS]>())).clamp(1, 64);
        let (units, width) = (panels.par_chunks(panels_in_unit * blocks), panels_in_unit * OUTS);
        let mut y = vec![0.0; n * self.out];
        if n == 1 {
            let work = units.zip(y.par_chunks_mut(width));
            work.for_each(|(panels, y)| simd16::run(PanelUnit { x, panels, blocks, y }));
            return y;
        }
        let parts: Vec<Vec<f32>> = units
            .enumerate()
            .map(|(i, panels)| {
                let mut y = vec![0.0; n * width.min(self.out - i * width)];
                simd16::run(PanelUnit { x, panels, blocks, y: &mut y });
                y
            })
            .collect();
        y.par_chunks_mut(self.out).enumerate().for_each(|(row, y)| {
            for (y, part) in y.chunks_mut(width).zip(&parts) {
                y.copy_from_slice(&part[row * y.len()..][..y.len()]);
            }
        });
        y
    }

    /// Returns the matrix (out, in) with the rounded values that products use.
    pub fn unpack(&self) -> Vec<f32> {
        let blocks = self.inp.div_ceil(BLOCK);
        let row = |o: usize| -> Vec<f32> {
            let at = |k: usize| (o / OUTS * blocks + k, o % OUTS);
            let values = (0..blocks).flat_map(|k| match (&self.panels, at(k)) {
                (PackedPanels::F32(panels), (at, o)) => panels[at][o].values(),
                (PackedPanels::Bf16(panels), (at, o)) => panels[at][o].values(),
                (PackedPanels::Int8(panels, factors), (at, lane)) => {
                    panels[at][lane].values().map(|q| q * factors[o])
                }
            });
            values.take(self.inp).collect()
        };
        (0..self.out).into_par_iter().flat_map_iter(row).collect()
    }
}

/// Packs w (out, in), each output's row times its `scale`, into blocks.
fn pack<B: Block>(w: &[f32], inp: usize, scale: impl Fn(usize) -> f32 + Sync) -> Vec<[B; OUTS]> {
    let panel = |(panel, w): (usize, &[f32])| -> Vec<[B; OUTS]> {
        let block = |k: usize, o: usize| {
            let mut values = [0.0; BLOCK];
            if let Some(row) = w.chunks_exact(inp).nth(o) {
                let some = &row[k * BLOCK..row.len().min((k + 1) * BLOCK)];
                let scale = scale(panel * OUTS + o);
                values.iter_mut().zip(some).for_each(|(value, w)| *value = w * scale);
            }
            B::pack(&values)
        };
        (0..inp.div_ceil(BLOCK)).map(|k| std::array::from_fn(|o| block(k, o))).collect()
    };
    w.par_chunks(OUTS * inp).enumerate().flat_map_iter(panel).collect()
}

/// Returns the value of one integer step in an output's row: max|w| / 127, or 1 for a row of zeros.
fn int8_factor(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |a, w| a.max(w.abs()));
    if largest > 0.0 { largest / 127.0 } else { 1.0 }
}

fn pad_rows(x: &[f32], inp: usize) -> Vec<f32> {
    let padded = inp.next_multiple_of(BLOCK);
    let mut rows = vec![0.0; x.len() / inp * padded];
    rows.chunks_exact_mut(padded).zip(x.chunks_exact(inp)).for_each(|(row, x)| row[..inp].copy_from_slice(x));
    rows
}

/// A thread's work: some panels times all rows of x, which gives y (N, outputs of these panels).
struct PanelUnit<'a, B> {
    x: &'a [[[f32; LANES]; 2]],
    panels: &'a [[B; OUTS]],
    /// Blocks in a row.
    blocks: usize,
    y: &'a mut [f32],
}

impl<B: Block> Kernel for PanelUnit<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let PanelUnit { x, panels, blocks, y } = self;
        let width = y.len() / (x.len() / blocks);
        let groups = x.chunks(ROWS_IN_L2 * blocks).zip(y.chunks_mut(ROWS_IN_L2 * width));
        for (x, y) in groups {
            for (i, panel) in panels.chunks_exact(blocks).enumerate() {
                for (x, y) in x.chunks(ROWS * blocks).zip(y.chunks_mut(ROWS * width)) {
                    let y = PanelColumns { y, at: i * OUTS, width };
                    match x.len() / blocks {
                        1 => tile::<S, B, 1>(simd, x, panel, y),
                        2 => tile::<S, B, 2>(simd, x, panel, y),
                        3 => tile::<S, B, 3>(simd, x, panel, y),
                        4 => tile::<S, B, 4>(simd, x, panel, y),
                        5 => tile::<S, B, 5>(simd, x, panel, y),
                        _ => tile::<S, B, ROWS>(simd, x, panel, y),
                    }
                }
            }
        }
    }
}

/// The place of a panel's outputs: from column `at` of rows of `width`. The last panel may have fewer than four.
struct PanelColumns<'a> {
    y: &'a mut [f32],
    at: usize,
    width: usize,
}

impl PanelColumns<'_> {
    #[inline(always)]
    fn set(&mut self, row: usize, sums: [f32; OUTS]) {
        let len = OUTS.min(self.width - self.at);
        self.y[row * self.width + self.at..][..len].copy_from_slice(&sums[..len]);
    }
}

/// Multiplies N rows of x by one panel; each loaded weight is used N times.
#[inline(always)]
fn tile<S: Simd, B: Block, const N: usize>(
    simd: S,
    x: &[[[f32; LANES]; 2]],
    panel: &[[B; OUTS]],
    mut y: PanelColumns,
) {
    let mut rows = [x; N];
    for n in 0..N {
        rows[n] = &x[n * panel.len()..][..panel.len()];
    }
    let mut sums = [[simd.zero(); OUTS]; N];
    for k in 0..panel.len() {
        for o in 0..OUTS {
            let [w0, w1] = panel[k][o].load(simd);
            for n in 0..N {
                let [x0, x1] = &rows[n][k];
                sums[n][o] = simd.mul_add(simd.load(x0), w0, sums[n][o]);
                sums[n][o] = simd.mul_add(simd.load(x1), w1, sums[n][o]);
            }
        }
    }
    for n in 0..N {
        y.set(n, simd.sums(sums[n]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, randn};

    const ALL: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

    #[test]
    fn products_equal_the_definition() {
        for (n, out, inp) in [(1, 1, 1), (1, 64, 32), (7, 5, 33), (50, 66, 96), (13, 130, 64)] {
            let (x, w) = (randn(&[n, inp], 0), randn(&[out, inp], 1));
            for dtype in ALL {
                let packed = Packed::new(w.data(), [out, inp], dtype);
                let w = packed.unpack();
                let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
                let plain: Vec<f32> =
                    x.data().chunks(inp).flat_map(|x| w.chunks(inp).map(move |w| dot(x, w))).collect();
                assert_close(&packed.product(x.data(), n), &plain, 1e-5);
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_in_every_batch() {
        let (inp, x, w) = (96, randn(&[100, 96], 0), randn(&[37, 96], 1));
        for dtype in ALL {
            let packed = Packed::new(w.data(), [37, inp], dtype);
            let all = packed.product(x.data(), 100);
            for n in [1, 2, 3, 5, 6, 7, 49] {
                let some = packed.product(&x.data()[3 * inp..(3 + n) * inp], n);
                assert_eq!(some, all[3 * 37..(3 + n) * 37], "{n} rows in {dtype}");
            }
        }
    }

    #[test]
    fn fewer_bits_stay_close_to_the_weights() {
        let w = randn(&[9, 70], 3);
        let unpacked = |dtype| Packed::new(w.data(), [9, 70], dtype).unpack();
        assert_eq!(unpacked(Dtype::F32), w.data());
        assert_close(&unpacked(Dtype::Bf16), w.data(), 1.0 / 256.0);
        for (row, exact) in unpacked(Dtype::Int8).chunks(70).zip(w.data().chunks(70)) {
            let half_a_step = 0.501 * int8_factor(exact);
            assert!(row.iter().zip(exact).all(|(a, b)| (a - b).abs() <= half_a_step));
        }
        assert_eq!(Packed::new(&[0.0; 6], [2, 3], Dtype::Int8).unpack(), [0.0; 6]);
    }

    /// Processors without vector instructions compute nearly the same values.
    #[test]
    fn plain_loops_agree_with_vectors() {
        let (x, w) = (randn(&[7, 64], 0), randn(&[8, 64], 1));
        let panels: Vec<[Bf16; OUTS]> = pack(w.data(), 64, |_| 1.0);
        let x = x.data().as_chunks::<LANES>().0.as_chunks::<2>().0;
        let (mut plain, mut vectors) = (vec![0.0; 56], vec![0.0; 56]);
        PanelUnit { x, panels: &panels, blocks: 2, y: &mut plain }.run(simd16::Plain);
        simd16::run(PanelUnit { x, panels: &panels, blocks: 2, y: &mut vectors });
        assert_close(&vectors, &plain, 1e-5);
    }
}
