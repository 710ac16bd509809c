use super::cpu::output_shape;
use crate::gpu::{Gpu, Operand, Output, Product};
use crate::{Dtype, Tensor};

pub fn forward(gpu: &Gpu, x: &Tensor, w: &Tensor) -> Tensor {
    product(gpu, None, x, w, Dtype::Bf16)
}

pub fn forward_f32(gpu: &Gpu, x: &Tensor, w: &Tensor) -> Tensor {
    product(gpu, None, x, w, Dtype::F32)
}

/// Computes residual + x wᵀ; the sum is taken in float32 inside the product.
pub fn forward_add(gpu: &Gpu, residual: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    product(gpu, Some(residual), x, w, Dtype::Bf16)
}

fn product(gpu: &Gpu, residual: Option<&Tensor>, x: &Tensor, w: &Tensor, dtype: Dtype) -> Tensor {
    let (rows, inp, out) = (x.rows(), x.cols(), w.rows());
    let y = Tensor::unwritten(gpu, dtype, &output_shape(x, out));
    let output = Output::new(y.slice(), out);
    let (a, b) = (Operand::new(x.bf16_slice(), inp), Operand::new(w.bf16_slice(), inp).t());
    let beta = if residual.is_some() { 1.0 } else { 0.0 };
    let product = Product::new([rows, out, inp], a, b, output, beta);
    // Weights in bf16 are for generation, where nearly every step has another number of rows, so a search does not pay.
    let search = w.dtype() == Dtype::F32;
    gpu.matmul(Product { added: residual.map_or(y.slice(), Tensor::bf16_slice), search, ..product });
    y
}

/// dx (rows, in) = dy (rows, out) · w (out, in) + beta · dx
pub fn backward_input(gpu: &Gpu, dx: &mut Tensor, beta: f32, dy: &Tensor, w: &Tensor) {
    let (rows, out, inp) = (dy.rows(), w.rows(), w.cols());
    let output = Output::new(dx.slice_mut(), inp);
    let (a, b) = (Operand::new(dy.bf16_slice(), out), Operand::new(w.bf16_slice(), inp));
    gpu.matmul(Product::new([rows, inp, out], a, b, output, beta));
}

/// dw (out, in) = dy (rows, out)ᵀ · x (rows, in) + beta · dw, in float32
pub fn backward_weight(gpu: &Gpu, dw: &mut Tensor, beta: f32, dy: &Tensor, x: &Tensor) {
    let (rows, out, inp) = (dy.rows(), dy.cols(), x.cols());
    let output = Output::new(dw.slice_mut(), inp);
    let (a, b) = (Operand::new(dy.bf16_slice(), out).t(), Operand::new(x.bf16_slice(), inp));
    gpu.matmul(Product::new([out, inp, rows], a, b, output, beta));
}
