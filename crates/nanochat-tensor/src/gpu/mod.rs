//! The interface to a GPU of any kind: memory, copies, kernels by name, matrix products, timing, recordings.
//!
//! Ops and tensors use [`Gpu`]; each kind of GPU implements [`GpuBackend`] behind it. A kind has its own language for
//! kernels, so an op has a file for each ([`KernelLanguage`]); nothing else of the kind is visible outside its folder.

mod backend;
mod buffer;
mod failure;
mod graph;
mod ints;
mod kernel;
mod launch;
mod product;
mod slice;
#[cfg(test)]
mod stub;

use std::any::Any;
use std::sync::{Arc, Mutex};

use crate::dtype::{Dtype, HostNumber};
use crate::profile::{Clock, Event};

pub(crate) use backend::{GpuBackend, KernelLanguage, MemoryUse, Recording};
pub(crate) use buffer::Buffer;
pub(crate) use failure::fail;
pub use failure::{GpuFailure, gpu_failure};
pub use graph::Graph;
pub(crate) use ints::Ints;
pub(crate) use kernel::{Argument, KernelCall, KernelFile, Tiles};
pub(crate) use launch::{Launch, blocks};
pub(crate) use product::{Operand, Output, Product};
pub(crate) use slice::Slice;

/// A GPU. All work runs in the order in which it was given, and a call that gives work returns at once.
#[derive(Clone)]
pub struct Gpu(Arc<Opened>);

struct Opened {
    /// The positions that the layers of one forward pass share, uploaded once.
    positions: Mutex<Option<Positions>>,
    backend: Box<dyn GpuBackend>,
}

/// Positions of tokens, on the host and on the GPU.
struct Positions {
    host: Arc<[usize]>,
    on_gpu: Arc<Buffer>,
}

impl Gpu {
    pub(crate) fn new(backend: impl GpuBackend) -> Gpu {
        Gpu(Arc::new(Opened { positions: Mutex::default(), backend: Box::new(backend) }))
    }

    pub(crate) fn backend(&self) -> &dyn GpuBackend {
        &*self.0.backend
    }

    /// Returns the backend as type `B`; None if it is of another kind.
    pub(crate) fn kind<B: GpuBackend>(&self) -> Option<&B> {
        let backend: &dyn Any = self.backend();
        backend.downcast_ref()
    }

    /// Whether both are handles of the same opened GPU.
    pub(crate) fn is(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn name(&self) -> &str {
        self.backend().name()
    }

    pub(crate) fn language(&self) -> KernelLanguage {
        self.backend().language()
    }

    /// Waits until all work given to the GPU is done.
    pub fn synchronize(&self) {
        self.backend().wait();
    }

    /// Returns the bytes that tensors of this program can still get.
    pub fn free_bytes(&self) -> usize {
        self.backend().memory().free
    }

    /// Returns the most bytes of tensors held at one time.
    pub fn peak_bytes(&self) -> usize {
        self.backend().memory().peak
    }

    pub fn total_bytes(&self) -> usize {
        self.backend().memory().total
    }

    /// Sets the advice at the end of the out-of-memory message: a whole clause, such as "--device-batch-size 8 fits".
    pub fn advise_when_full(&self, advice: String) {
        self.backend().advise_when_full(advice);
    }

    /// Returns the milliseconds of GPU time that `work` takes.
    pub fn time(&self, work: impl FnOnce()) -> f32 {
        let start = self.mark();
        work();
        self.milliseconds(&start, &self.mark())
    }

    /// Allocates a buffer of unknown values. Unwinds with a [`GpuFailure`] if memory runs out.
    pub(crate) fn alloc(&self, len: usize, dtype: Dtype) -> Buffer {
        let address = self.backend().alloc((len * dtype.bytes()).max(16));
        Buffer::new(self.clone(), address, len, dtype)
    }

    pub(crate) fn zeros(&self, len: usize, dtype: Dtype) -> Buffer {
        let buffer = self.alloc(len, dtype);
        self.backend().clear(buffer.slice());
        buffer
    }

    /// Copies `data` to a new buffer; `data` may be changed as soon as this returns.
    pub(crate) fn upload<T: HostNumber>(&self, data: &[T]) -> Buffer {
        let buffer = self.alloc(data.len(), T::DTYPE);
        self.overwrite(buffer.slice(), data);
        buffer
    }

    /// Copies `data` to the beginning of `to`, in the order of the work; `data` may be changed as soon as this returns.
    #[track_caller]
    pub(crate) fn overwrite<T: bytemuck::Pod>(&self, to: Slice, data: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(bytes.len() <= to.bytes(), "{} bytes into {}", bytes.len(), to.bytes());
        self.backend().write(to, bytes);
    }

    /// Copies the first values of a slice to the host; waits for the GPU.
    #[track_caller]
    pub(crate) fn download<T: bytemuck::Pod>(&self, from: Slice, into: &mut [T]) {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(into);
        assert!(bytes.len() <= from.bytes(), "{} bytes of {}", bytes.len(), from.bytes());
        self.backend().read(from, bytes);
    }

    /// Copies values of one type between buffers of the GPU.
    #[track_caller]
    pub(crate) fn copy(&self, to: Slice, from: Slice) {
        assert!(to.dtype() == from.dtype() && to.len() >= from.len(), "copying {from:?} to {to:?}");
        self.backend().copy(to, from);
    }

    /// Copies values to a slice of another type, f32 or bf16. Both must begin at multiples of 16 bytes, since the
    /// kernel uses vectors of eight values.
    #[track_caller]
    pub(crate) fn convert(&self, to: Slice, from: Slice) {
        assert!(to.len() >= from.len(), "converting {} values into {}", from.len(), to.len());
        match (from.dtype(), to.dtype()) {
            (Dtype::F32, Dtype::Bf16) | (Dtype::Bf16, Dtype::F32) => self.backend().convert(to, from),
            (Dtype::F32, Dtype::F32) | (Dtype::Bf16, Dtype::Bf16) => self.copy(to, from),
            (Dtype::F32 | Dtype::Bf16, other) | (other @ (Dtype::Int8 | Dtype::U32), _) => {
                other.has_no("conversion of values")
            }
        }
    }

    /// Starts to build the launch of a kernel of a file.
    pub(crate) fn kernel(&self, source: KernelFile, name: &str) -> Launch<'_> {
        Launch::new(self.backend(), source, name)
    }

    /// Multiplies bf16 matrices.
    pub(crate) fn matmul(&self, product: Product) {
        if product.m > 0 && product.n > 0 {
            self.backend().multiply(&product);
        }
    }

    /// Returns the positions as u32 on the GPU. The last ones are kept, so that those of training are copied once.
    pub(crate) fn positions(&self, positions: &Arc<[usize]>) -> Arc<Buffer> {
        let mut last = self.0.positions.lock().unwrap_or_else(|e| e.into_inner());
        let same = |last: &Positions| Arc::ptr_eq(&last.host, positions) || last.host == *positions;
        if let Some(last) = last.as_mut().filter(|last| same(last)) {
            last.host = positions.clone(); // the next layer finds them by their address alone
            return last.on_gpu.clone();
        }
        let values: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        let on_gpu = Arc::new(self.upload(&values));
        *last = Some(Positions { host: positions.clone(), on_gpu: on_gpu.clone() });
        on_gpu
    }
}

impl Clock for Gpu {
    fn mark(&self) -> Event {
        self.backend().mark()
    }

    fn milliseconds(&self, from: &Event, to: &Event) -> f32 {
        self.backend().milliseconds(from, to)
    }

    fn wait(&self) {
        self.backend().wait();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::Device;
    use crate::testing::gpu;

    #[test]
    fn memory_that_ends_is_one_sentence_and_not_the_end() {
        let Some(Device::Gpu(gpu)) = gpu() else { return };
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
}
