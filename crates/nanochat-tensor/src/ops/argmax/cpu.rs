use rayon::prelude::*;

use crate::Tensor;

pub fn argmax(x: &Tensor) -> Vec<u32> {
    let highest = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    x.data().par_chunks_exact(x.cols()).map(|row| highest(row) as u32).collect()
}
