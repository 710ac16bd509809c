//! Rounds values to bf16 and packs two neighbours in k into a u32, with AVX512-BF16 instructions where the processor
//! has them and with loops elsewhere. With the loops alone, the copies that products begin with take a seventh of a
//! training step.
//!
//! Both round to nearest, ties to even, and keep NaN. The instructions turn magnitudes below 2⁻¹²⁶ (denormals) into
//! zero.

/// Packs the neighbours of a row; a last value without a neighbour is paired with zero.
#[inline(always)]
pub fn pair_up(out: &mut [u32], row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if super::has_bf16() {
        // SAFETY: the processor has these instructions.
        return unsafe { avx512::pair_up(out, row) };
    }
    plain::pair_up(out, row);
}

/// Packs the values of two rows, column by column. A `high` shorter than `low` counts as zeros; the rest of `out` is
/// zero.
#[inline(always)]
pub fn interleave(out: &mut [u32], low: &[f32], high: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if super::has_bf16() {
        // SAFETY: the processor has these instructions.
        return unsafe { avx512::interleave(out, low, high) };
    }
    plain::interleave(out, low, high);
}

/// Packs at most W rows transposed: pair p of row r is at out[p][r], zero where there is none.
#[inline(always)]
pub fn turn<'a, const W: usize>(out: &mut [[u32; W]], rows: impl Iterator<Item = &'a [f32]>) {
    #[cfg(target_arch = "x86_64")]
    if super::has_bf16() {
        // SAFETY: the processor has these instructions.
        return unsafe { avx512::turn(out, rows) };
    }
    out.as_flattened_mut().fill(0);
    rows.enumerate().for_each(|(r, row)| plain::turn(out, r, row));
}

mod plain {
    #[inline(always)]
    pub fn pair_up(out: &mut [u32], row: &[f32]) {
        let (both, last) = row.as_chunks::<2>();
        out.iter_mut().zip(both).for_each(|(out, &[low, high])| *out = pair(low, high));
        if let &[low] = last {
            out[both.len()] = pair(low, 0.0);
        }
    }

    #[inline(always)]
    pub fn interleave(out: &mut [u32], low: &[f32], high: &[f32]) {
        let len = low.len().min(out.len());
        if high.len() >= len {
            let rows = low.iter().zip(high);
            out[..len].iter_mut().zip(rows).for_each(|(out, (&low, &high))| *out = pair(low, high));
        } else {
            out[..len].iter_mut().zip(low).for_each(|(out, &low)| *out = pair(low, 0.0));
        }
        out[len..].fill(0);
    }

    #[inline(always)]
    pub fn turn<const W: usize>(out: &mut [[u32; W]], r: usize, row: &[f32]) {
        let (both, last) = row.as_chunks::<2>();
        out.iter_mut().zip(both).for_each(|(out, &[low, high])| out[r] = pair(low, high));
        if let &[low] = last {
            out[both.len()][r] = pair(low, 0.0);
        }
    }

    #[inline(always)]
    fn pair(low: f32, high: f32) -> u32 {
        round(low) >> 16 | round(high) & 0xffff_0000
    }

    /// Rounds to bf16, in the upper half of the result.
    #[inline(always)]
    pub fn round(x: f32) -> u32 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        if x.is_nan() { bits | 0x40_0000 } else { rounded }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::plain;

    /// The number of f32 values in a vector.
    const LANES: usize = 16;

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn pair_up(out: &mut [u32], row: &[f32]) {
        let (rows, row_rest) = row.as_chunks::<{ 2 * LANES }>();
        let (outs, out_rest) = out.split_at_mut(LANES * rows.len());
        outs.as_chunks_mut::<LANES>().0.iter_mut().zip(rows).for_each(|(out, row)| *out = pairs(row));
        plain::pair_up(out_rest, row_rest);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn interleave(out: &mut [u32], low: &[f32], high: &[f32]) {
        let low = &low[..low.len().min(out.len())];
        let Some(high) = high.get(..low.len()) else { return plain::interleave(out, low, high) };
        let ((lows, low_rest), (highs, high_rest)) = (low.as_chunks::<LANES>(), high.as_chunks::<LANES>());
        let (outs, out_rest) = out.split_at_mut(LANES * lows.len());
        // Alternates the values of low and high, which the conversion puts one after the other.
        let order: [u16; 2 * LANES] = std::array::from_fn(|i| (i / 2 + i % 2 * LANES) as u16);
        // SAFETY: 64 bytes each, and any bits are integers.
        let order = unsafe { transmute::<[u16; 2 * LANES], __m512i>(order) };
        for (out, (low, high)) in outs.as_chunks_mut::<LANES>().0.iter_mut().zip(lows.iter().zip(highs)) {
            // SAFETY: 64 bytes each, and any bits are floats, bf16 values and integers.
            *out = unsafe {
                let [low, high] = [*low, *high].map(|row| transmute::<[f32; LANES], __m512>(row));
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                transmute::<__m512i, [u32; LANES]>(_mm512_permutexvar_epi16(order, both))
            };
        }
        plain::interleave(out_rest, low_rest, high_rest);
    }

    /// Transposes sixteen rows by sixteen pairs at a time, as a square in registers.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn turn<'a, const W: usize>(out: &mut [[u32; W]], mut rows: impl Iterator<Item = &'a [f32]>) {
        for first in (0..W).step_by(LANES) {
            let sixteen: [&[f32]; LANES] = std::array::from_fn(|_| rows.next().unwrap_or(&[]));
            for (out, at) in out.chunks_mut(LANES).zip((0..).step_by(2 * LANES)) {
                let square = sixteen.map(|row| match row.get(at..at + 2 * LANES) {
                    Some(row) => pairs(row.try_into().expect("it is as long")),
                    None => {
                        let mut padded = [0.0; 2 * LANES];
                        let rest = row.get(at..).unwrap_or(&[]);
                        padded[..rest.len()].copy_from_slice(rest);
                        pairs(&padded)
                    }
                });
                for (out, line) in out.iter_mut().zip(transposed(square)) {
                    out[first..][..LANES].copy_from_slice(&line);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pairs(values: &[f32; 2 * LANES]) -> [u32; LANES] {
        // SAFETY: 128 bytes are two vectors, 64 are one, and any bits are floats, bf16 values and integers.
        unsafe {
            let [low, high] = transmute::<[f32; 2 * LANES], [__m512; 2]>(*values);
            transmute::<__m512bh, [u32; LANES]>(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    /// Transposes by fours inside the quarters of the vectors, then the quarters themselves: 64 instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn transposed(square: [[u32; LANES]; LANES]) -> [[u32; LANES]; LANES] {
        // SAFETY: 1,024 bytes each, and any bits are integers.
        let rows = unsafe { transmute::<[[u32; LANES]; LANES], [__m512i; LANES]>(square) };
        let mut fours = rows;
        for i in (0..LANES).step_by(4) {
            let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            (fours[i], fours[i + 1]) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            (fours[i + 2], fours[i + 3]) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        }
        // Quarter q of fours[4 g + j] is column 4 q + j of rows 4 g to 4 g + 3.
        let mut columns = rows;
        for j in 0..4 {
            let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
            let low = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d)];
            let high = [_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d)];
            columns[j] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
            columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
            columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
            columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
        }
        // SAFETY: as above.
        unsafe { transmute::<[__m512i; LANES], [[u32; LANES]; LANES]>(columns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::randn;

    #[test]
    fn rounding_is_that_of_the_type() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            let mut by_this_processor = [0];
            pair_up(&mut by_this_processor, &[x]);
            for got in [plain::round(x) & 0xffff_0000, by_this_processor[0] << 16] {
                let (got, want) = (f32::from_bits(got), half::bf16::from_f32(x).to_f32());
                assert!(got == want || (got.is_nan() && want.is_nan()), "{x}: {got}, want {want}");
            }
        }
    }

    #[test]
    fn the_instructions_give_what_the_loops_give() {
        for (rows, len) in [(1, 1), (2, 31), (5, 32), (16, 33), (31, 64), (48, 100)] {
            let x = randn(&[rows, len], 0);
            let lines = || x.data().chunks_exact(len);
            let pairs = len.div_ceil(2);
            let (mut got, mut want) = (vec![[7; 48]; pairs], vec![[0; 48]; pairs]);
            turn(&mut got, lines());
            lines().enumerate().for_each(|(r, row)| plain::turn(&mut want, r, row));
            assert_eq!(got, want, "{rows} x {len} turned");
            let (low, high) = (x.data(), &x.data()[..len * (rows - 1)]);
            for (low, high) in [(low, high), (high, low)] {
                let (mut got, mut want) = (vec![7; low.len() + 5], vec![7; low.len() + 5]);
                interleave(&mut got, low, high);
                plain::interleave(&mut want, low, high);
                assert_eq!(got, want, "{} beside {}", low.len(), high.len());
                pair_up(&mut got, low);
                plain::pair_up(&mut want, low);
                assert_eq!(got, want, "{} paired", low.len());
            }
        }
    }
}
