//! Sixteen f32 at a time, for kernels that the compiler does not keep in registers by itself: AVX-512 if the processor
//! has it, else loops that the compiler vectorizes.

use crate::simd::{LANES, sum_lanes, vectorized};

pub trait Simd: Copy {
    type V: Copy;
    fn zero(self) -> Self::V;
    fn splat(self, value: f32) -> Self::V;
    fn load(self, values: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V) -> [f32; LANES];
    fn load_bf16(self, pairs: &[u32; LANES]) -> [Self::V; 2];
    fn load_int8(self, values: &[i8; LANES]) -> Self::V;
    /// Returns a · b + c.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the sum of each vector.
    fn sums(self, v: [Self::V; 4]) -> [f32; 4];
}

/// Code that is compiled for each kind of processor. It and all it calls must be `#[inline(always)]`.
pub trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the widest vectors of this processor.
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(v4) = pulp::x86::V4::try_new() {
        struct OnV4<K>(K, pulp::x86::V4);
        impl<K: Kernel> pulp::NullaryFnOnce for OnV4<K> {
            type Output = K::Output;
            #[inline(always)]
            fn call(self) -> K::Output {
                self.0.run(self.1)
            }
        }
        return v4.vectorize(OnV4(kernel, v4));
    }
    vectorized!(kernel.run(Plain))
}

/// Plain loops over arrays. A product is rounded before it is added: a fused multiply-add is a slow call on processors
/// that have no instruction for it.
#[derive(Clone, Copy)]
pub struct Plain;

impl Simd for Plain {
    type V = [f32; LANES];

    #[inline(always)]
    fn zero(self) -> Self::V {
        [0.0; LANES]
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::V {
        *values
    }

    #[inline(always)]
    fn store(self, v: Self::V) -> [f32; LANES] {
        v
    }

    #[inline(always)]
    fn load_bf16(self, pairs: &[u32; LANES]) -> [Self::V; 2] {
        let mut v = [[0.0; LANES]; 2];
        for i in 0..LANES {
            v[0][i] = f32::from_bits(pairs[i] << 16);
            v[1][i] = f32::from_bits(pairs[i] & 0xffff_0000);
        }
        v
    }

    #[inline(always)]
    fn load_int8(self, values: &[i8; LANES]) -> Self::V {
        let mut v = [0.0; LANES];
        for i in 0..LANES {
            v[i] = f32::from(values[i]);
        }
        v
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        for i in 0..LANES {
            c[i] += a[i] * b[i];
        }
        c
    }

    #[inline(always)]
    fn sums(self, v: [Self::V; 4]) -> [f32; 4] {
        [sum_lanes(v[0]), sum_lanes(v[1]), sum_lanes(v[2]), sum_lanes(v[3])]
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for pulp::x86::V4 {
    type V = std::arch::x86_64::__m512;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.avx512f._mm512_setzero_ps()
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        self.avx512f._mm512_set1_ps(value)
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::V {
        pulp::cast(*values)
    }

    #[inline(always)]
    fn store(self, v: Self::V) -> [f32; LANES] {
        pulp::cast(v)
    }

    #[inline(always)]
    fn load_bf16(self, pairs: &[u32; LANES]) -> [Self::V; 2] {
        let (f, pairs) = (self.avx512f, pulp::cast(*pairs));
        let high = f._mm512_and_si512(pairs, f._mm512_set1_epi32(0xffff_0000_u32 as i32));
        [pulp::cast(f._mm512_slli_epi32::<16>(pairs)), pulp::cast(high)]
    }

    #[inline(always)]
    fn load_int8(self, values: &[i8; LANES]) -> Self::V {
        self.avx512f._mm512_cvtepi32_ps(self.avx512f._mm512_cvtepi8_epi32(pulp::cast(*values)))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.avx512f._mm512_fmadd_ps(a, b, c)
    }

    /// Merges two vectors into one that holds the halved sums of both, three times: 13 instructions instead of 40 for
    /// four separate sums.
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [Self::V; 4]) -> [f32; 4] {
        let f = self.avx512f;
        let ab = f._mm512_add_ps(f._mm512_unpacklo_ps(a, b), f._mm512_unpackhi_ps(a, b));
        let cd = f._mm512_add_ps(f._mm512_unpacklo_ps(c, d), f._mm512_unpackhi_ps(c, d));
        let abcd = f._mm512_add_ps(f._mm512_shuffle_ps::<0x44>(ab, cd), f._mm512_shuffle_ps::<0xee>(ab, cd));
        let abcd = f._mm512_add_ps(abcd, f._mm512_shuffle_f32x4::<0x4e>(abcd, abcd));
        let abcd = f._mm512_add_ps(abcd, f._mm512_shuffle_f32x4::<0xb1>(abcd, abcd));
        let [sums, ..]: [[f32; 4]; 4] = pulp::cast(abcd);
        sums
    }
}
