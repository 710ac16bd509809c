use crate::ops::linear::cpu;
use crate::simd::vectorized;
use crate::{Dtype, Tensor};

/// relu²(x (.., C) · c_fc (4C, C)ᵀ) -> (.., 4C)
pub fn forward_hidden(x: &Tensor, c_fc: &Tensor, products: Dtype) -> Tensor {
    cpu::forward_then(x, c_fc, products, |_, h| {
        vectorized!(h.iter_mut().for_each(|h| *h = h.max(0.0) * h.max(0.0)));
    })
}

/// 2 · max(h, 0) · (dy (.., C) · c_proj (C, 4C)) -> (.., 4C), where max(h, 0) is the root of `activated`.
pub fn backward_hidden(dy: &Tensor, c_proj: &Tensor, activated: &Tensor, products: Dtype) -> Tensor {
    let mut dh = activated.target().fresh();
    cpu::backward_input_then(&mut dh, 0.0, dy, c_proj, products, |first, dh| {
        let activated = &activated.data()[first..][..dh.len()];
        vectorized!(dh.iter_mut().zip(activated).for_each(|(dh, activated)| *dh *= 2.0 * activated.sqrt()));
    });
    dh
}
