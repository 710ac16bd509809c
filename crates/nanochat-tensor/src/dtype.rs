//! The types of numbers, and the recipes that say which of them a model uses where.

use std::fmt;
use std::str::FromStr;

/// The type of the numbers in a tensor, a product, a buffer or a file. Every kernel matches on all of them, so that the
/// compiler finds the kernels in which a new type is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    #[default]
    F32,
    Bf16,
    /// Eight bits, with one f32 factor for each output (row) of the matrix: [`packed`](crate::packed).
    Int8,
    /// Ids, lengths, positions and page numbers, which no product takes.
    U32,
}

impl Dtype {
    /// Returns the bytes of one number, without the factors of an int8 matrix.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 | Dtype::U32 => 4,
            Dtype::Bf16 => 2,
            Dtype::Int8 => 1,
        }
    }

    /// Panics with a sentence that names the missing kernel.
    #[track_caller]
    pub fn has_no(self, kernel: &str) -> ! {
        panic!("there is no {kernel} in {self}")
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
            Dtype::U32 => "u32",
        })
    }
}

/// Reads the name of a type that weights can be stored as.
impl FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Dtype, String> {
        match name {
            "f32" => Ok(Dtype::F32),
            "bf16" => Ok(Dtype::Bf16),
            "int8" => Ok(Dtype::Int8),
            _ => Err("choose f32, bf16 or int8".into()),
        }
    }
}

/// A Rust type whose values a buffer can hold unchanged.
pub(crate) trait HostNumber: bytemuck::Pod {
    const DTYPE: Dtype;
}

impl HostNumber for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl HostNumber for u32 {
    const DTYPE: Dtype = Dtype::U32;
}

/// The types that a model computes in. Sums, gradients of weights and the optimizer's state are f32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The type that weights are stored as.
    pub weights: Dtype,
    /// The type that the factors of products are rounded to.
    pub products: Dtype,
    /// The type of the values between ops, and of the keys and values in the engine's cache.
    pub activations: Dtype,
}

impl Recipe {
    /// Rounds nothing: the same values on every processor.
    pub const F32: Recipe = Recipe { weights: Dtype::F32, products: Dtype::F32, activations: Dtype::F32 };
    /// Rounds the factors of products, for processors with AVX512-BF16.
    pub const BF16_PRODUCTS: Recipe = Recipe { products: Dtype::Bf16, ..Recipe::F32 };
    /// Rounds activations too, and multiplies with a bf16 copy of the f32 weights, as GPUs train.
    pub const BF16: Recipe = Recipe { activations: Dtype::Bf16, ..Recipe::BF16_PRODUCTS };
}
