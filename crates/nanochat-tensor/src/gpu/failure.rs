//! The end of work on a GPU.

use std::any::Any;

/// What a panic carries when the GPU failed at work, such as by running out of memory: one sentence for the user.
/// Thrown without a message on stderr; the program's edge catches it.
pub struct GpuFailure(pub String);

/// Returns the sentence inside a caught panic, if it was the GPU's.
pub fn gpu_failure(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<GpuFailure>().map(|failure| failure.0.as_str())
}

/// Unwinds with a sentence.
pub(crate) fn fail(message: String) -> ! {
    if cfg!(test) {
        eprintln!("{message}");
    }
    std::panic::resume_unwind(Box::new(GpuFailure(message)))
}
