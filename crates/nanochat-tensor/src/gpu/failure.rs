//! Failures of work on a GPU.

use std::any::Any;

/// The payload of a panic after a failure of the GPU, such as running out of memory: one sentence for the user. Nothing
/// is printed to stderr; the program's edge catches it.
pub struct GpuFailure(pub String);

/// Returns the sentence inside a caught panic, if the GPU caused it.
pub fn gpu_failure(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<GpuFailure>().map(|failure| failure.0.as_str())
}

/// Unwinds with a sentence as a [`GpuFailure`].
pub(crate) fn fail(message: String) -> ! {
    if cfg!(test) {
        eprintln!("{message}");
    }
    std::panic::resume_unwind(Box::new(GpuFailure(message)))
}
