//! One NVIDIA GPU: its stream, memory, kernels and matrix products.
//!
//! All computing runs on one stream in the order in which it was given; only collectives have another (comm/nccl.rs).
//! Memory comes from the driver's stream-ordered pool: a freed buffer is not reused before the kernels that use it have
//! run, and no allocation waits for the GPU.

mod backend;
mod cache;
mod clock;
mod convert;
mod graph;
mod kernels;
pub mod libraries;
mod matmul;
pub(crate) mod nccl;
mod staging;
mod tensor_map;

use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use crate::gpu::{Gpu, GpuBackend, fail};

pub use cache::folder as cache_folder;
pub(crate) use kernels::sources;
use libraries::NCCL;
pub(crate) use staging::Locked;

/// The reason why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("no NVIDIA driver was found (libcuda.so); use --device cpu, or see `nanochat doctor`")]
    NoDriver,
    #[error("there is no GPU {0}; use --device cpu, or see `nanochat doctor`")]
    NoGpu(usize),
    #[error("{name} is of compute capability {}.{}; 8.0 (Ampere) or later is needed for bf16", capability.0, capability.1)]
    TooOld { name: String, capability: (i32, i32) },
    #[error(
        "the NVIDIA driver is for CUDA {found}, and {needed} is needed; update the driver to 570 or later"
    )]
    OldDriver { found: String, needed: String },
    #[error("{library} was not found; `nanochat doctor` says where it was looked for and how to get it")]
    NoLibrary { library: &'static str },
    #[error(
        "{library} is of CUDA {found}, and {needed} is needed; `nanochat doctor` says how to get another"
    )]
    WrongLibrary { library: &'static str, found: String, needed: String },
    #[error("other programs hold nearly all memory of GPU {0}; `nvidia-smi` lists them")]
    Full(usize),
    #[error("GPU {0} is given to another program alone, or not in order; `nvidia-smi` says more")]
    Unavailable(usize),
    #[error("NCCL could not be started: {0}")]
    Nccl(String),
    #[error("failed to open GPU {ordinal}: {message}")]
    Open { ordinal: usize, message: String },
}

/// The memory that cuBLASLt's workspace and the kernels need before the first tensor.
const LEAST_FREE_BYTES: usize = 256 << 20;

pub struct Cuda {
    name: String,
    arch: &'static str,
    multiprocessors: u32,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: kernels::Kernels,
    matmul: matmul::Matmul,
    staging: Mutex<staging::Staging>,
    /// The advice at the end of an out-of-memory message.
    advice: Mutex<String>,
}

impl Cuda {
    /// Returns the card behind a GPU, for what only CUDA has.
    ///
    /// # Panics
    /// If the GPU is of another kind.
    #[track_caller]
    pub fn of(gpu: &Gpu) -> &Cuda {
        gpu.kind().expect("CUDA is asked of another kind of GPU")
    }

    /// Opens a card and checks for all that training on it needs. The error says what is missing.
    pub fn open(ordinal: usize) -> Result<Gpu, DeviceError> {
        libraries::preload();
        libraries::check_driver()?;
        let open = |e| cannot_open(ordinal, e);
        let count = CudaContext::device_count().map_err(open)?;
        if ordinal as i32 >= count {
            return Err(DeviceError::NoGpu(ordinal));
        }
        let context = CudaContext::new(ordinal).map_err(open)?;
        let name = context.name().map_err(open)?;
        let capability = context.compute_capability().map_err(open)?;
        if capability.0 < 8 {
            return Err(DeviceError::TooOld { name, capability });
        }
        // SAFETY: all computing runs on the one stream below, in order; collectives order themselves by events.
        unsafe { context.disable_event_tracking() };
        if result::mem_get_info().map_err(open)?.0 < LEAST_FREE_BYTES {
            return Err(DeviceError::Full(ordinal));
        }
        libraries::check_libraries()?;
        let stream = context.new_stream().map_err(open)?;
        keep_freed_memory(&context).map_err(open)?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).map_err(open)? as u32;
        let arch = kernels::architecture(capability);
        if let Some(folder) = cache::folder() {
            cache::sweep(&folder);
        }
        let kernels = kernels::Kernels::new(arch);
        let matmul = matmul::Matmul::new(&name, &stream)
            .map_err(|e| DeviceError::Open { ordinal, message: format!("cuBLASLt: {e}") })?;
        Ok(Gpu::new(Cuda {
            name,
            arch,
            multiprocessors,
            context,
            stream,
            kernels,
            matmul,
            staging: Mutex::default(),
            advice: Mutex::new("use a smaller --device-batch-size".into()),
        }))
    }

    /// Returns the number of GPUs that this process may use; 0 if it cannot be found out.
    pub fn count() -> usize {
        libraries::preload();
        libraries::check_driver().ok().and_then(|()| CudaContext::device_count().ok()).unwrap_or(0) as usize
    }

    /// Returns the architecture that kernels are compiled for, such as sm_90a.
    pub fn arch(&self) -> &str {
        self.arch
    }

    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    pub fn compute_capability(&self) -> (i32, i32) {
        self.check(self.context.compute_capability(), "asking for the compute capability")
    }

    /// Returns the bytes of all tensors that exist now.
    pub fn used_bytes(&self) -> usize {
        self.pool_attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    }

    pub fn synchronize(&self) {
        self.check(self.stream.synchronize(), "waiting for the GPU");
    }

    /// Returns the milliseconds of GPU time that `work` takes.
    fn time(&self, work: &mut dyn FnMut()) -> f32 {
        let start = self.event();
        work();
        self.milliseconds(&start, &self.event())
    }

    /// Records an event in the stream, whose time can be read later.
    pub(crate) fn event(&self) -> CudaEvent {
        self.event_of(&self.stream)
    }

    pub(crate) fn event_of(&self, stream: &CudaStream) -> CudaEvent {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.check(stream.record_event(flags), "recording an event")
    }

    /// Makes a stream for work beside the computing. It has high priority: others wait for its work, which needs few
    /// multiprocessors if it gets them at once.
    pub(crate) fn stream_beside(&self) -> Arc<CudaStream> {
        self.bind();
        let (_, highest) = self.check(result::stream::get_priority_range(), "asking for priorities");
        self.check(self.context.new_stream_with_priority(highest), "making a stream")
    }

    /// Makes later work on `stream` wait for all work so far on this GPU's own stream.
    pub(crate) fn send_after(&self, stream: &CudaStream) {
        self.check(stream.join(&self.stream), "ordering streams");
    }

    /// Makes later work on this GPU's own stream wait for `event`.
    pub(crate) fn come_after(&self, event: &CudaEvent) {
        self.check(self.stream.wait(event), "ordering streams");
    }

    /// Returns the time from one event to a later one; waits for both.
    pub(crate) fn milliseconds(&self, from: &CudaEvent, to: &CudaEvent) -> f32 {
        self.check(from.elapsed_ms(to), "reading a clock")
    }

    /// Binds this GPU to the calling thread, as the driver's functions require.
    pub(crate) fn bind(&self) {
        self.check(self.context.bind_to_thread(), "using the GPU");
    }

    fn fail_full(&self, asked: usize) -> ! {
        let [asked, free, used, total] =
            [asked, self.memory().free, self.used_bytes(), self.memory().total].map(gib);
        let advice = self.advice();
        fail(format!(
            "the GPU is out of memory: {asked} more were asked for, {free} of its {total} are free and {used} in use by this program; {advice}"
        ))
    }

    fn advice(&self) -> String {
        self.advice.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn pool_attribute(&self, attribute: sys::CUmemPool_attribute) -> usize {
        let mut value = 0u64;
        // SAFETY: the default pool exists as long as the device, and both attributes have 64 bits.
        let read = unsafe {
            result::device::get_default_mem_pool(self.context.cu_device()).and_then(|pool| {
                sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast::<c_void>()).result()
            })
        };
        self.check(read, "asking the memory pool");
        value as usize
    }

    pub(crate) fn check<T>(&self, outcome: Result<T, DriverError>, doing: &str) -> T {
        outcome.unwrap_or_else(|e| {
            let full = e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
            let advice = if full { format!("; {}", self.advice()) } else { String::new() };
            fail(format!("{doing} failed on {}: {}{advice}", self.name, describe(e)))
        })
    }
}

/// Keeps freed memory in the pool for the next step, instead of returning it to the driver at every wait.
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    let mut threshold = u64::MAX;
    // SAFETY: the default pool exists as long as the device; this attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast::<c_void>()).result()
    }
}

/// Returns the reason why a GPU could not be opened, from the driver's code.
fn cannot_open(ordinal: usize, error: DriverError) -> DeviceError {
    use sys::CUresult as Code;
    match error.0 {
        Code::CUDA_ERROR_NO_DEVICE | Code::CUDA_ERROR_INVALID_DEVICE => DeviceError::NoGpu(ordinal),
        Code::CUDA_ERROR_STUB_LIBRARY => DeviceError::NoDriver,
        Code::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::Full(ordinal),
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE => DeviceError::Unavailable(ordinal),
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | Code::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            let message = "the parts of the NVIDIA driver are of different versions; restart the machine, or install the driver anew".to_string();
            DeviceError::Open { ordinal, message }
        }
        _ => DeviceError::Open { ordinal, message: describe(error) },
    }
}

/// Returns the driver's message for an error.
fn describe(error: DriverError) -> String {
    let text = error.error_string().ok().and_then(|text| text.to_str().ok());
    text.map_or_else(|| format!("{:?}", error.0), str::to_string)
}

fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// Returns the version that a library of `NEEDED`, or NCCL, reports; None if it is not found.
pub fn library_version(name: &str) -> Option<libraries::Version> {
    libraries::preload();
    if name == NCCL.name { nccl::installed_version() } else { libraries::version(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_opening_have_a_sentence_each() {
        use sys::CUresult as Code;
        let sentence = |code| cannot_open(3, DriverError(code)).to_string();
        assert!(sentence(Code::CUDA_ERROR_NO_DEVICE).contains("no GPU 3"));
        assert!(sentence(Code::CUDA_ERROR_OUT_OF_MEMORY).contains("other programs hold"));
        assert!(sentence(Code::CUDA_ERROR_DEVICE_UNAVAILABLE).contains("another program alone"));
        assert!(sentence(Code::CUDA_ERROR_STUB_LIBRARY).contains("no NVIDIA driver"));
        assert!(sentence(Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH).contains("different versions"));
        let old = DeviceError::OldDriver { found: "12.2".into(), needed: "12.8".into() }.to_string();
        assert!(old.contains("12.2") && old.contains("570"), "{old}");
    }
}
