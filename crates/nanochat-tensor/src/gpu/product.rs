//! Matrix products.

use super::Slice;

/// A row-major bf16 matrix: element (i, j) is at `i * ld + j`, or at `j * ld + i` if it is transposed.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub values: Slice<'a>,
    pub ld: usize,
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    pub fn new(values: Slice<'a>, ld: usize) -> Operand<'a> {
        Operand { values, ld, transposed: false }
    }

    pub fn t(self) -> Operand<'a> {
        Operand { transposed: !self.transposed, ..self }
    }
}

/// A row-major matrix that a product writes.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    pub values: Slice<'a>,
    pub ld: usize,
}

impl<'a> Output<'a> {
    pub fn new(values: Slice<'a>, ld: usize) -> Output<'a> {
        Output { values, ld }
    }
}

/// The matrix product out (m, n) = alpha · a (m, k) · b (k, n) + beta · added, for each matrix of a batch. The matrices
/// of a batch lie one after another; `added` has the layout of `out` and may be the same memory.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub out: Output<'a>,
    pub added: Slice<'a>,
    pub alpha: f32,
    pub beta: f32,
    pub batch: usize,
    /// Whether the shape is frequent enough for its algorithms to be timed.
    pub search: bool,
}

impl<'a> Product<'a> {
    /// Makes the product out = a b + beta · out.
    pub fn new([m, n, k]: [usize; 3], a: Operand<'a>, b: Operand<'a>, out: Output<'a>, beta: f32) -> Self {
        Product { m, n, k, a, b, out, added: out.values, alpha: 1.0, beta, batch: 1, search: true }
    }
}
