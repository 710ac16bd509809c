//! A part of a buffer, for kernels, products and copies.

use std::marker::PhantomData;
use std::ops::Range;

use crate::Dtype;

/// Contiguous values of one type in a GPU's memory, which stays allocated for `'a`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice<'a> {
    memory: u64,
    /// The number of values between `memory` and the first value.
    start: usize,
    len: usize,
    dtype: Dtype,
    kept: PhantomData<&'a [u8]>,
}

impl Slice<'_> {
    /// Makes a slice of `len` values at an address; the caller keeps the memory allocated.
    pub fn at(memory: u64, len: usize, dtype: Dtype) -> Self {
        Slice { memory, start: 0, len, dtype, kept: PhantomData }
    }

    /// Returns the values from index `at` on.
    #[track_caller]
    pub fn from(self, at: usize) -> Self {
        self.part(at..self.len)
    }

    #[track_caller]
    pub fn part(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "values {range:?} of {}", self.len);
        Slice { start: self.start + range.start, len: range.len(), ..self }
    }

    /// Returns the address of the first value on the GPU.
    pub fn address(self) -> u64 {
        self.memory + (self.start * self.dtype.bytes()) as u64
    }

    pub fn len(self) -> usize {
        self.len
    }

    pub fn bytes(self) -> usize {
        self.len * self.dtype.bytes()
    }

    pub fn dtype(self) -> Dtype {
        self.dtype
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_lies_where_its_values_do() {
        let all = Slice::at(0x1000, 100, Dtype::Bf16);
        let part = all.from(10).part(5..25);
        assert_eq!((part.address(), part.len(), part.bytes()), (0x1000 + 2 * 15, 20, 40));
        assert_eq!(Slice::at(0x1000, 8, Dtype::F32).from(8).bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "values 20..31 of 30")]
    fn a_part_beyond_the_end_is_refused() {
        Slice::at(0x1000, 100, Dtype::F32).part(0..30).part(20..31);
    }
}
