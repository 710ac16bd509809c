//! AdamW (Loshchilov and Hutter 2019), one fused pass over a parameter.

use nanochat_tensor::optim::AdamW;
use nanochat_tensor::simd::{CHUNK, vectorized};
use rayon::prelude::*;

pub struct AdamWStep {
    pub lr: f32,
    pub weight_decay: f32,
    pub betas: (f32, f32),
    pub eps: f32,
    /// The step, counted from 1.
    pub step: u64,
}

impl AdamWStep {
    /// Returns the constants that are the same for every value.
    pub fn constants(&self) -> AdamW {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        AdamW {
            keep: 1.0 - self.lr * self.weight_decay,
            step_size: (f64::from(self.lr) / correction(self.betas.0)) as f32,
            root_correction: correction(self.betas.1).sqrt().recip() as f32,
            betas: self.betas,
            eps: self.eps,
        }
    }

    /// Updates the weight `w` and its moments `m` and `v` in place, with the gradient clip · g.
    pub fn apply(&self, w: &mut [f32], g: &[f32], clip: f32, m: &mut [f32], v: &mut [f32]) {
        let AdamW { keep, step_size, root_correction, betas, eps } = self.constants();
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        let chunks = chunks.zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
        chunks.for_each(|((w, g), (m, v))| {
            vectorized!({
                for ((w, g), (m, v)) in w.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                    let g = clip * g;
                    *m = betas.0 * *m + (1.0 - betas.0) * g;
                    *v = betas.1 * *v + (1.0 - betas.1) * g * g;
                    *w = keep * *w - step_size * *m / (v.sqrt() * root_correction + eps);
                }
            })
        });
    }
}
