use rayon::prelude::*;

use super::RowIndex;
use crate::Tensor;

pub fn take_rows(x: &Tensor, index: &RowIndex) -> Tensor {
    let c = x.cols();
    let mut y = vec![0.0; index.len() * c];
    y.par_chunks_exact_mut(c).zip(&index.rows).with_min_len(64).for_each(|(y, &row)| {
        y.copy_from_slice(&x.data()[row as usize * c..][..c]);
    });
    Tensor::new(y, &[index.len(), c])
}
