//! One NVIDIA GPU: its stream, memory, kernels and matrix products.
//!
//! All computing runs on one stream in the order it was given (only collectives have another, comm/nccl), and memory comes from the driver's stream-ordered
//! pool: a buffer freed here is not used again before the kernels that were given it have run, and no
//! allocation waits for the GPU.

mod buffer;
mod cache;
mod clock;
mod convert;
mod graph;
mod ints;
mod kernels;
pub mod libraries;
mod matmul;
pub(crate) mod nccl;
mod slice;
mod staging;
mod tensor_map;

use std::any::Any;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use crate::dtype::{Dtype, Number};
use crate::profile;

pub(crate) use buffer::Buffer;
pub use cache::folder as cache_folder;
pub use graph::Graph;
pub(crate) use ints::Ints;
pub(crate) use kernels::{Launch, blocks, sources};
pub(crate) use matmul::{Operand, Output, Product};
pub(crate) use slice::Slice;
pub(crate) use staging::Locked;
pub(crate) use tensor_map::TensorMap;

/// Why there is no GPU to work on.
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

/// What a panic carries when the GPU failed at work, such as by running out of memory: one sentence for the user.
/// Thrown without a message on stderr; the program's edge catches it.
pub struct GpuFailure(pub String);

/// The sentence inside a caught panic, if it was the GPU's.
pub fn gpu_failure(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<GpuFailure>().map(|failure| failure.0.as_str())
}

pub(crate) fn fail(message: String) -> ! {
    if cfg!(test) {
        eprintln!("{message}");
    }
    std::panic::resume_unwind(Box::new(GpuFailure(message)))
}

/// What cuBLASLt's workspace and the kernels take before the first tensor.
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
    /// The positions that the layers of one forward pass share, uploaded once.
    positions: Mutex<Option<Positions>>,
    /// What to do when memory ends, for the sentence that says so.
    advice: Mutex<String>,
}

/// Positions of tokens, on both sides.
struct Positions {
    host: Arc<[usize]>,
    on_gpu: Arc<Buffer>,
}

impl Cuda {
    pub fn open(ordinal: usize) -> Result<Arc<Cuda>, DeviceError> {
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
        Ok(Arc::new(Cuda {
            name,
            arch,
            multiprocessors,
            context,
            stream,
            kernels,
            matmul,
            staging: Mutex::default(),
            positions: Mutex::default(),
            advice: Mutex::new("use a smaller --device-batch-size".into()),
        }))
    }

    /// GPUs that this process may use; 0 where that cannot be asked.
    pub fn count() -> usize {
        libraries::preload();
        libraries::check_driver().ok().and_then(|()| CudaContext::device_count().ok()).unwrap_or(0) as usize
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kernels are compiled for, such as sm_90a.
    pub fn arch(&self) -> &str {
        self.arch
    }

    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    pub fn compute_capability(&self) -> (i32, i32) {
        self.check(self.context.compute_capability(), "asking for the compute capability")
    }

    pub fn total_bytes(&self) -> usize {
        self.check(self.context.total_mem(), "asking for the memory")
    }

    /// Bytes that tensors of this program can still get: what the driver has, and what the pool keeps for it.
    pub fn free_bytes(&self) -> usize {
        self.bind();
        let free = self.check(result::mem_get_info(), "asking for the free memory").0;
        let reserved = self.pool_attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        free + reserved.saturating_sub(self.used_bytes())
    }

    /// Bytes of tensors held now.
    pub fn used_bytes(&self) -> usize {
        self.pool_attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    }

    /// What the user shall do if memory ends: a whole clause, such as "--device-batch-size 8 fits".
    pub fn advise_when_full(&self, advice: String) {
        *self.advice.lock().unwrap_or_else(|e| e.into_inner()) = advice;
    }

    /// Most bytes of tensors held at one time.
    pub fn peak_bytes(&self) -> usize {
        self.pool_attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
    }

    pub fn synchronize(&self) {
        self.check(self.stream.synchronize(), "waiting for the GPU");
    }

    /// Milliseconds of GPU time that `work` takes.
    pub fn time(&self, work: impl FnOnce()) -> f32 {
        let start = self.event();
        work();
        self.milliseconds(&start, &self.event())
    }

    /// A point in the stream whose time can be asked for.
    pub(crate) fn event(&self) -> CudaEvent {
        self.event_of(&self.stream)
    }

    pub(crate) fn event_of(&self, stream: &CudaStream) -> CudaEvent {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.check(stream.record_event(flags), "recording an event")
    }

    /// A stream for what runs beside the computing: of high priority, since others wait for it, and it takes few
    /// multiprocessors when it gets them at once.
    pub(crate) fn stream_beside(&self) -> Arc<CudaStream> {
        self.bind();
        let (_, highest) = self.check(result::stream::get_priority_range(), "asking for priorities");
        self.check(self.context.new_stream_with_priority(highest), "making a stream")
    }

    /// What is given to `stream` next comes after all that was given to this GPU's own.
    pub(crate) fn send_after(&self, stream: &CudaStream) {
        self.check(stream.join(&self.stream), "ordering streams");
    }

    /// What is given to this GPU's own stream next comes after `event`.
    pub(crate) fn come_after(&self, event: &CudaEvent) {
        self.check(self.stream.wait(event), "ordering streams");
    }

    /// From one event to a later one; waits for both.
    pub(crate) fn milliseconds(&self, from: &CudaEvent, to: &CudaEvent) -> f32 {
        self.check(from.elapsed_ms(to), "reading a clock")
    }

    /// Makes this GPU the calling thread's; the driver's functions want that.
    pub(crate) fn bind(&self) {
        self.check(self.context.bind_to_thread(), "using the GPU");
    }

    pub(crate) fn alloc(self: &Arc<Cuda>, len: usize, dtype: Dtype) -> Buffer {
        self.bind();
        let bytes = (len * dtype.bytes()).max(16);
        // SAFETY: the stream is alive as long as self; the pointer's only owner is the Buffer.
        match unsafe { result::malloc_async(self.stream.cu_stream(), bytes) } {
            Ok(ptr) => Buffer::new(self.clone(), ptr, len, dtype),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => self.fail_full(bytes),
            Err(e) => fail(format!("allocating {} on {} failed: {}", gib(bytes), self.name, describe(e))),
        }
    }

    fn fail_full(&self, asked: usize) -> ! {
        let [asked, free, used, total] =
            [asked, self.free_bytes(), self.used_bytes(), self.total_bytes()].map(gib);
        let advice = self.advice();
        fail(format!(
            "the GPU is out of memory: {asked} more were asked for, {free} of its {total} are free and {used} in use by this program; {advice}"
        ))
    }

    fn advice(&self) -> String {
        self.advice.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn zeros(self: &Arc<Cuda>, len: usize, dtype: Dtype) -> Buffer {
        let buffer = self.alloc(len, dtype);
        let set = profile::kernel(
            || "clear".into(),
            // SAFETY: the buffer is at least so many bytes long.
            || unsafe {
                result::memset_d8_async(
                    buffer.slice().address(),
                    0,
                    buffer.slice().bytes(),
                    self.stream.cu_stream(),
                )
            },
        );
        self.check(set, "clearing memory");
        buffer
    }

    /// `data` on the GPU; it may be changed as soon as this returns.
    pub(crate) fn upload<T: Number>(self: &Arc<Cuda>, data: &[T]) -> Buffer {
        let buffer = self.alloc(data.len(), T::DTYPE);
        self.overwrite(buffer.slice(), data);
        buffer
    }

    /// Writes `data` where the GPU's memory has room for it, in the stream's order; it may be changed as soon as this
    /// returns.
    #[track_caller]
    pub(crate) fn overwrite<T: bytemuck::Pod>(&self, to: Slice, data: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(bytes.len() <= to.bytes(), "{} bytes into {}", bytes.len(), to.bytes());
        let to = to.address();
        self.bind();
        if bytes.len() <= staging::LARGEST {
            let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
            profile::kernel(|| "upload".into(), || staging.copy(self, to, bytes));
            return;
        }
        // SAFETY: the slice is as long as `data`, as was checked; a copy from pageable memory returns when it is staged.
        let copied = unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) };
        self.check(copied, "copying to the GPU");
    }

    /// Waits for the stream.
    #[track_caller]
    pub(crate) fn download<T: bytemuck::Pod>(&self, from: Slice, into: &mut [T]) {
        self.bind();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(into);
        assert!(bytes.len() <= from.bytes(), "{} bytes of {}", bytes.len(), from.bytes());
        let from = from.address();
        if bytes.len() <= staging::LARGEST {
            let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
            return staging.fetch(self, from, bytes);
        }
        // SAFETY: the slice is at least as long as `into`, as was checked; synchronize() waits for the copy.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) };
        self.check(copied, "copying from the GPU");
        self.synchronize();
    }

    /// Copies values of one type between buffers of the GPU.
    #[track_caller]
    pub(crate) fn copy(&self, to: Slice, from: Slice) {
        assert!(to.dtype() == from.dtype() && to.len() >= from.len(), "copying {from:?} to {to:?}");
        let (to, from, bytes) = (to.address(), from.address(), from.bytes());
        self.bind();
        let copied = profile::kernel(
            || "copy".into(),
            // SAFETY: both slices are of at least so many bytes, as was checked.
            || unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) },
        );
        self.check(copied, "copying on the GPU");
    }

    /// The positions as u32 on the GPU; the last ones are kept, so those of training are copied once.
    pub(crate) fn positions(self: &Arc<Cuda>, positions: &Arc<[usize]>) -> Arc<Buffer> {
        let mut last = self.positions.lock().unwrap_or_else(|e| e.into_inner());
        let same = |last: &Positions| Arc::ptr_eq(&last.host, positions) || last.host == *positions;
        if let Some(last) = last.as_mut().filter(|last| same(last)) {
            last.host = positions.clone(); // the next layer's question is answered by the address
            return last.on_gpu.clone();
        }
        let values: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        let on_gpu = Arc::new(self.upload(&values));
        *last = Some(Positions { host: positions.clone(), on_gpu: on_gpu.clone() });
        on_gpu
    }

    fn pool_attribute(&self, attribute: sys::CUmemPool_attribute) -> usize {
        let mut value = 0u64;
        // SAFETY: the default pool exists as long as the device, and both attributes are of 64 bits.
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

/// Memory freed stays in the pool for the next step instead of going back to the driver at every wait.
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    let mut threshold = u64::MAX;
    // SAFETY: the default pool exists as long as the device; this attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast::<c_void>()).result()
    }
}

/// Why a GPU could not be opened, by the driver's code.
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

/// The driver's own words for an error.
fn describe(error: DriverError) -> String {
    let text = error.error_string().ok().and_then(|text| text.to_str().ok());
    text.map_or_else(|| format!("{:?}", error.0), str::to_string)
}

fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::Device;
    use crate::testing::gpu;

    #[test]
    fn memory_that_ends_is_one_sentence_and_not_the_end() {
        let Some(Device::Cuda(gpu)) = gpu() else { return };
        gpu.advise_when_full("less fits".into());
        let asked = catch_unwind(AssertUnwindSafe(|| gpu.alloc(gpu.total_bytes(), Dtype::F32)));
        let panic = asked.err().expect("four times the card was given");
        let sentence = gpu_failure(&*panic).expect("another panic");
        let parts = ["out of memory", "were asked for", "are free", "less fits"];
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
        let mut zeros = [1.0f32; 8];
        gpu.download(gpu.zeros(8, Dtype::F32).slice(), &mut zeros);
        assert_eq!(zeros, [0.0; 8]);
    }

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
