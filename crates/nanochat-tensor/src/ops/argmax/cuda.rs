use crate::cuda::sources;
use crate::gpu::Gpu;
use crate::{Dtype, Tensor};

const THREADS: u32 = 512;

#[track_caller]
pub fn argmax(gpu: &Gpu, x: &Tensor) -> Vec<u32> {
    assert_eq!(x.dtype(), Dtype::F32, "argmax on CUDA takes float32");
    let columns = gpu.alloc(x.rows(), Dtype::U32);
    let launch = gpu.kernel(sources::argmax, "argmax").slice(columns.slice()).slice(x.slice()).u32(x.cols());
    // SAFETY: a block for each row of x, which writes one column.
    unsafe { launch.run([x.rows(), 1, 1], THREADS, 0) }
    let mut found = vec![0; x.rows()];
    gpu.download(columns.slice(), &mut found);
    found
}
