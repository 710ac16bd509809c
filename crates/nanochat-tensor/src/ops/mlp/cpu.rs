use rayon::prelude::*;

use crate::simd::{CHUNK, old, par_zip, vectorized};
use crate::{Tensor, reuse};

pub fn forward(x: &Tensor) -> Tensor {
    let mut y = reuse::any(x.len());
    par_zip(&mut y, x.data(), |y, x| y.iter_mut().zip(x).for_each(|(y, &x)| *y = relu(x) * relu(x)));
    Tensor::new(y, x.shape())
}

/// dx = 2 · max(x, 0) · dy + beta · dx
pub fn backward(dx: &mut Tensor, beta: f32, x: &Tensor, dy: &Tensor) {
    let (x, dy) = (x.data(), dy.data());
    dx.make_mut().par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(
        |((dx, x), dy)| {
            vectorized!({
                dx.iter_mut()
                    .zip(x.iter().zip(dy))
                    .for_each(|(dx, (&x, dy))| *dx = old(*dx, beta) + 2.0 * relu(x) * dy)
            })
        },
    );
}

pub fn backward_from_output(dy: &mut Tensor, y: &Tensor) {
    par_zip(dy.make_mut(), y.data(), |dy, y| dy.iter_mut().zip(y).for_each(|(dy, y)| *dy *= 2.0 * y.sqrt()));
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}
