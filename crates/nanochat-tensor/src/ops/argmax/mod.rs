//! The column of the highest value of each row; of several, the first. On a GPU only the columns are copied to the
//! host: 4 bytes a row of logits instead of 4 V.

use crate::Tensor;

mod cpu;
mod cuda;

impl Tensor {
    /// x (N, V) in float32 -> (N)
    pub fn argmax(&self) -> Vec<u32> {
        assert!(self.cols() > 0, "argmax of rows without columns");
        dispatch!(self, argmax(self))
    }
}

#[cfg(test)]
mod tests {
    use crate::Tensor;
    use crate::testing::{gpu, randn};

    #[test]
    fn the_first_of_the_highest_is_found() {
        let x = Tensor::new(vec![0.0, 2.0, 2.0, 1.0, -1.0, -3.0, f32::NEG_INFINITY, -1.0], &[2, 4]);
        assert_eq!(x.argmax(), [1, 0]);
    }

    #[test]
    fn gpu_agrees_with_the_cpu() {
        let Some(device) = gpu() else { return };
        for (n, v) in [(1, 1), (5, 31), (300, 1_025), (7, 65_536)] {
            let mut x = randn(&[n, v], 0);
            // Rounding makes ties, of which the first must win.
            x.data_mut().iter_mut().for_each(|x| *x = (4.0 * *x).round());
            assert_eq!(x.to_device(&device).argmax(), x.argmax(), "{n} x {v}");
        }
    }
}
