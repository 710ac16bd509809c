//! Copies rows of a tensor by index, in any order and any number of times: y[n] = x[rows[n]]. Not differentiable:
//! evaluation uses it to put tokens that several texts share beside each text's own.

use std::sync::OnceLock;

use crate::Tensor;
use crate::gpu::Buffer;

mod cpu;
mod cuda;

/// The indices of the rows. All layers of a pass use the same ones, so they are copied to a GPU once.
pub struct RowIndex {
    rows: Vec<u32>,
    /// One more than the largest index.
    end: usize,
    on_gpu: OnceLock<Buffer>,
}

impl RowIndex {
    pub fn new(rows: Vec<u32>) -> RowIndex {
        let end = rows.iter().max().map_or(0, |&last| last as usize + 1);
        RowIndex { rows, end, on_gpu: OnceLock::new() }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Tensor {
    /// x (.., C) -> (rows, C)
    #[track_caller]
    pub fn take_rows(&self, index: &RowIndex) -> Tensor {
        assert!(index.end <= self.rows(), "row {} is outside of {:?}", index.end - 1, self.shape());
        dispatch!(self, take_rows(self, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::testing::{gpu, randn};

    #[test]
    fn rows_come_in_the_order_of_their_numbers() {
        let x = randn(&[2, 3, 8], 0);
        let y = x.take_rows(&RowIndex::new(vec![5, 0, 0, 3]));
        assert_eq!(y.shape(), [4, 8]);
        for (n, row) in [5, 0, 0, 3].into_iter().enumerate() {
            assert_eq!(y.data()[n * 8..][..8], x.data()[row * 8..][..8]);
        }
        assert_eq!(x.take_rows(&RowIndex::new(Vec::new())).shape(), [0, 8]);
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        let Some(device) = gpu() else { return };
        for (rows, c) in [(1, 8), (300, 72), (1_000, 1_280)] {
            let x = randn(&[rows, c], 0).to_device(&device).to_activation();
            let rows = RowIndex::new((0..777).map(|n| n * 31 % rows as u32).collect());
            let cpu = x.to_device(&Device::Cpu).take_rows(&rows);
            assert_eq!(x.take_rows(&rows).host(), cpu.data());
            let float = cpu.to_device(&device);
            let fewer = RowIndex::new(vec![776, 3, 3]);
            assert_eq!(float.take_rows(&fewer).host(), cpu.take_rows(&fewer).data());
        }
    }
}
