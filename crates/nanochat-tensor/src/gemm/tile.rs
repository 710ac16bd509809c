//! The innermost loop of the products in bf16: a tile of c, 12 rows of 32 columns in 24 vector registers.

/// The number of columns of a tile: two vectors of sixteen.
pub const COLS: usize = 32;

/// The number of rows of a tile. Of AVX-512's 32 registers, 24 hold sums, two a row of the right factor and one a value
/// of the left factor.
pub const ROWS: usize = 12;

/// One tile of a product: c (rows, cols) = alpha · left · right + beta · c. If beta is 0, c is not read.
pub struct Tile<'a> {
    /// Pairs of the left factor: pair p of row r is at r · strides[0] + p · strides[1]. There must be rows up to the
    /// next multiple of four.
    pub left: &'a [u32],
    pub strides: [usize; 2],
    /// Pairs of the right factor.
    pub right: &'a [[u32; COLS]],
    pub c: &'a mut [f32],
    /// The distance between rows of c.
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
    pub alpha: f32,
    pub beta: f32,
}

/// Computes a tile. Fewer than twelve rows are computed as eight or four, and the surplus is discarded.
pub fn run(tile: Tile) {
    match tile.rows {
        9.. => run_rows::<ROWS>(tile),
        5..=8 => run_rows::<8>(tile),
        _ => run_rows::<4>(tile),
    }
}

fn run_rows<const N: usize>(tile: Tile) {
    #[cfg(target_arch = "x86_64")]
    if super::has_bf16() {
        let [row, pair] = tile.strides;
        let last_of_left = (N - 1) * row + tile.right.len().saturating_sub(1) * pair;
        assert!(tile.right.is_empty() || last_of_left < tile.left.len(), "the left factor is too short");
        let end_of_c = (tile.rows - 1) * tile.stride + tile.cols;
        assert!(end_of_c <= tile.c.len() && tile.rows <= N && tile.cols <= COLS, "the tile is not inside c");
        // SAFETY: the processor has these instructions, and the assertions are what the function asks for.
        return unsafe { avx512::run::<N>(tile) };
    }
    crate::simd::vectorized!(plain(tile))
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{COLS, Tile};

    /// # Safety
    /// Every pair of N rows must lie inside `left` and every row of the tile inside `c`; the tile has at most N rows.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn run<const N: usize>(tile: Tile) {
        let Tile { left, strides: [row, pair], right, c, stride, rows, cols, alpha, beta } = tile;
        // c comes from farther away than the other operands, so it is fetched while the sums are computed. Without
        // this, a product of (4,096, 256) by (256, 256) takes 1.5 times as long.
        for r in 0..rows {
            // SAFETY: row r of the tile lies inside c; a prefetch of what lies behind it does nothing.
            unsafe {
                _mm_prefetch::<_MM_HINT_ET0>(c.as_ptr().add(r * stride).cast());
                _mm_prefetch::<_MM_HINT_ET0>(c.as_ptr().add(r * stride).wrapping_add(16).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); 2]; N];
        for (p, right) in right.iter().enumerate() {
            // SAFETY: 32 pairs are two vectors, and any bits are bf16 values.
            let [b0, b1] = unsafe { transmute::<[u32; COLS], [__m512bh; 2]>(*right) };
            for r in 0..N {
                // SAFETY: the caller's promise; any bits are bf16 values.
                let a = unsafe {
                    let a = *left.get_unchecked(r * row + p * pair);
                    transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a as i32))
                };
                sums[r] = [_mm512_dpbf16_ps(sums[r][0], a, b0), _mm512_dpbf16_ps(sums[r][1], a, b1)];
            }
        }
        // With constant bounds the sums stay in registers. With `rows` as the bound, the compiler kept all 24 on the
        // stack, zeroed before and read again after: 3 % of training a d6.
        let (alpha, factor) = (_mm512_set1_ps(alpha), _mm512_set1_ps(beta));
        let masks =
            [(1u32 << cols.min(16)) - 1, (1u32 << cols.saturating_sub(16)) - 1].map(|mask| mask as __mmask16);
        for r in 0..N {
            for half in 0..2 {
                let mask = if r < rows { masks[half] } else { 0 };
                let c = c.as_mut_ptr().wrapping_add(r * stride + 16 * half);
                // SAFETY: the caller's promise, for the lanes of the mask; the others are not touched.
                unsafe {
                    let mut sum = _mm512_mul_ps(alpha, sums[r][half]);
                    if beta != 0.0 {
                        sum = _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(mask, c), sum);
                    }
                    _mm512_mask_storeu_ps(c, mask, sum);
                }
            }
        }
    }
}

/// Computes a tile with loops for any processor, one row at a time.
#[inline(always)]
pub fn plain(tile: Tile) {
    let Tile { left, strides: [row, pair], right, c, stride, rows, cols, alpha, beta } = tile;
    for r in 0..rows {
        let mut sums = [0.0; COLS];
        for (p, right) in right.iter().enumerate() {
            let a = left[r * row + p * pair];
            let (low, high) = (f32::from_bits(a << 16), f32::from_bits(a & 0xffff_0000));
            for i in 0..COLS {
                sums[i] +=
                    low * f32::from_bits(right[i] << 16) + high * f32::from_bits(right[i] & 0xffff_0000);
            }
        }
        let c = &mut c[r * stride..][..cols];
        match beta {
            0.0 => c.iter_mut().zip(sums).for_each(|(c, sum)| *c = alpha * sum),
            _ => c.iter_mut().zip(sums).for_each(|(c, sum)| *c = alpha * sum + beta * *c),
        }
    }
}
