//! Blocks of 32 weights, one type for each precision.

use super::BLOCK;
use crate::simd::LANES;
use crate::simd16::Simd;

pub trait Block: Copy + Send + Sync {
    fn pack(values: &[f32; BLOCK]) -> Self;
    fn load<S: Simd>(&self, simd: S) -> [S::V; 2];
    fn values(&self) -> [f32; BLOCK];
}

#[derive(Clone, Copy)]
pub struct F32([[f32; LANES]; 2]);

/// 16 pairs: value i in the low half of pair i, value 16 + i in the high half, so that a shift and a mask give two
/// vectors in order.
#[derive(Clone, Copy)]
pub struct Bf16([u32; LANES]);

#[derive(Clone, Copy)]
pub struct Int8([[i8; LANES]; 2]);

impl Block for F32 {
    fn pack(values: &[f32; BLOCK]) -> F32 {
        F32(std::array::from_fn(|half| std::array::from_fn(|i| values[half * LANES + i])))
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> [S::V; 2] {
        [simd.load(&self.0[0]), simd.load(&self.0[1])]
    }

    fn values(&self) -> [f32; BLOCK] {
        std::array::from_fn(|i| self.0[i / LANES][i % LANES])
    }
}

impl Block for Bf16 {
    fn pack(values: &[f32; BLOCK]) -> Bf16 {
        let bits = |i: usize| u32::from(half::bf16::from_f32(values[i]).to_bits());
        Bf16(std::array::from_fn(|i| bits(LANES + i) << 16 | bits(i)))
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> [S::V; 2] {
        simd.load_bf16(&self.0)
    }

    fn values(&self) -> [f32; BLOCK] {
        std::array::from_fn(|i| f32::from_bits(self.0[i % LANES] >> (i / LANES * 16) << 16))
    }
}

impl Block for Int8 {
    /// Packs `values`, which must be within ±127.
    fn pack(values: &[f32; BLOCK]) -> Int8 {
        Int8(std::array::from_fn(|half| std::array::from_fn(|i| values[half * LANES + i].round() as i8)))
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> [S::V; 2] {
        [simd.load_int8(&self.0[0]), simd.load_int8(&self.0[1])]
    }

    fn values(&self) -> [f32; BLOCK] {
        std::array::from_fn(|i| f32::from(self.0[i / LANES][i % LANES]))
    }
}
