use crate::cuda::sources;
use crate::gpu::{Gpu, blocks};
use crate::{Dtype, Tensor};

const THREADS: u32 = 256;

pub fn add_scaled(gpu: &Gpu, y: &mut Tensor, x: &Tensor, factor: f32, beta: f32) {
    assert_eq!((y.len(), y.dtype()), (x.len(), x.dtype()), "add_scaled: operands differ");
    let name = match x.dtype() {
        Dtype::F32 => "add_scaled_f32",
        Dtype::Bf16 => "add_scaled_bf16",
        other @ (Dtype::Int8 | Dtype::U32) => other.has_no("sum of tensors"),
    };
    let launch = gpu.kernel(sources::elementwise, name).slice(y.slice_mut()).slice(x.slice());
    let launch = launch.f32(factor).u32(usize::from(beta != 0.0)).u64(x.len());
    // SAFETY: both hold `len` values of the kernel's type.
    unsafe { launch.run(eight_a_thread(x.len()), THREADS, 0) }
}

pub fn sum(gpu: &Gpu, x: &Tensor, y: &Tensor) -> Tensor {
    let z = Tensor::unwritten(gpu, Dtype::Bf16, x.shape());
    let launch = gpu
        .kernel(sources::elementwise, "sum_bf16")
        .slice(z.slice())
        .slice(x.bf16_slice())
        .slice(y.bf16_slice());
    // SAFETY: all three hold `len` bf16 values.
    unsafe { launch.u64(x.len()).run(eight_a_thread(x.len()), THREADS, 0) }
    z
}

fn eight_a_thread(len: usize) -> [usize; 3] {
    blocks(len.div_ceil(8), THREADS)
}
