//! The choice between an op's kernels.

/// Runs `cpu::f(..)` or `cuda::f(gpu, ..)` of the calling op's folder, depending on where `tensor` is and on that GPU's
/// language. An argument after a semicolon is passed to the CPU's function only.
macro_rules! dispatch {
    ($tensor:expr, $f:ident($($arg:expr),* $(,)? $(; $cpu:expr)?)) => {
        match $tensor.gpu().cloned() {
            None => cpu::$f($($arg),* $(, $cpu)?),
            Some(gpu) => match gpu.language() {
                crate::gpu::KernelLanguage::Cuda => cuda::$f(&gpu, $($arg),*),
            },
        }
    };
}
