//! CUDA as a kind of GPU: memory from the stream-ordered pool, copies, and calls of the other files.

use cudarc::driver::{result, sys};

use super::{Cuda, describe, gib, staging};
use crate::gpu::{GpuBackend, KernelCall, KernelLanguage, MemoryUse, Product, Recording, Slice, fail};
use crate::profile;

impl GpuBackend for Cuda {
    fn name(&self) -> &str {
        &self.name
    }

    fn language(&self) -> KernelLanguage {
        KernelLanguage::Cuda
    }

    /// Returns the memory; free is what the driver has left, plus what the pool keeps for this program.
    fn memory(&self) -> MemoryUse {
        self.bind();
        let free = self.check(result::mem_get_info(), "asking for the free memory").0;
        let reserved = self.pool_attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        MemoryUse {
            free: free + reserved.saturating_sub(self.used_bytes()),
            peak: self.pool_attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH),
            total: self.check(self.context.total_mem(), "asking for the memory"),
        }
    }

    fn advise_when_full(&self, advice: String) {
        *self.advice.lock().unwrap_or_else(|e| e.into_inner()) = advice;
    }

    fn alloc(&self, bytes: usize) -> u64 {
        self.bind();
        // SAFETY: the stream is alive as long as self; whoever gets the pointer frees it.
        match unsafe { result::malloc_async(self.stream.cu_stream(), bytes) } {
            Ok(address) => address,
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => self.fail_full(bytes),
            Err(e) => fail(format!("allocating {} on {} failed: {}", gib(bytes), self.name, describe(e))),
        }
    }

    fn free(&self, address: u64) {
        // An error (the context is broken) cannot be handled here and shows at the next call.
        let _ = self.context.bind_to_thread();
        // SAFETY: the pointer came from malloc_async on this stream and is freed once.
        let _ = unsafe { result::free_async(address, self.stream.cu_stream()) };
    }

    fn clear(&self, slice: Slice) {
        self.bind();
        let set = profile::kernel(
            || "clear".into(),
            // SAFETY: the slice has this many bytes.
            || unsafe { result::memset_d8_async(slice.address(), 0, slice.bytes(), self.stream.cu_stream()) },
        );
        self.check(set, "clearing memory");
    }

    fn write(&self, to: Slice, bytes: &[u8]) {
        self.bind();
        if bytes.len() <= staging::LARGEST {
            let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
            profile::kernel(|| "upload".into(), || staging.copy(self, to.address(), bytes));
            return;
        }
        // SAFETY: the slice is as long as the bytes; a copy from pageable memory returns when it is staged.
        let copied = unsafe { result::memcpy_htod_async(to.address(), bytes, self.stream.cu_stream()) };
        self.check(copied, "copying to the GPU");
    }

    fn read(&self, from: Slice, into: &mut [u8]) {
        self.bind();
        if into.len() <= staging::LARGEST {
            let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
            return staging.fetch(self, from.address(), into);
        }
        // SAFETY: the slice is at least as long as `into`; synchronize() waits for the copy.
        let copied = unsafe { result::memcpy_dtoh_async(into, from.address(), self.stream.cu_stream()) };
        self.check(copied, "copying from the GPU");
        self.synchronize();
    }

    fn copy(&self, to: Slice, from: Slice) {
        self.bind();
        let (stream, bytes) = (self.stream.cu_stream(), from.bytes());
        let copied = profile::kernel(
            || "copy".into(),
            // SAFETY: both slices have at least this many bytes.
            || unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, stream) },
        );
        self.check(copied, "copying on the GPU");
    }

    fn convert(&self, to: Slice, from: Slice) {
        self.convert_values(to, from);
    }

    unsafe fn launch(&self, kernel: &KernelCall, grid: [usize; 3], threads: u32, shared_bytes: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.start(kernel, grid, threads, shared_bytes) }
    }

    fn multiply(&self, product: &Product) {
        self.matmul(product);
    }

    fn record(&self, work: &mut dyn FnMut()) -> Box<dyn Recording> {
        self.record_graph(work)
    }
}
