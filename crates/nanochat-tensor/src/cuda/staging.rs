//! Page-locked host memory, for small copies to and from a GPU; kernels can access it too.
//!
//! A copy from ordinary memory waits until the driver has staged it. Here the values of a batch are copied into a
//! page-locked buffer, and the stream copies them to the GPU later. A buffer is reused once its copy is done; since the
//! CPU runs a micro-step or two ahead, a handful of buffers is enough.

use std::ffi::c_void;
use std::marker::PhantomData;

use cudarc::driver::{CudaEvent, result, sys};

use super::Cuda;
use crate::dtype::HostNumber;
use crate::gpu::{Gpu, Slice};

/// The largest copy that uses page-locked memory: 4 MiB, the ids of a million tokens. Weights, which are copied once,
/// use the driver's own staging.
pub(super) const LARGEST: usize = 4 << 20;

/// The page-locked buffers, in use and free.
#[derive(Default)]
pub(super) struct Staging(Vec<LockedPages>);

struct LockedPages {
    ptr: *mut c_void,
    bytes: usize,
    /// The event after the last copy from here.
    copied: CudaEvent,
}

// SAFETY: a plain allocation, used behind the lock of its owner.
unsafe impl Send for LockedPages {}

impl Staging {
    /// Copies `data` to the address `to` on the GPU, in stream order.
    pub fn copy(&mut self, gpu: &Cuda, to: u64, data: &[u8]) {
        let LockedPages { ptr, copied, .. } = self.free(gpu, data.len());
        // SAFETY: the buffer has room for `data` and no copy uses it; the caller promises as much room at `to`, and the
        // buffer stays until the event below has passed.
        let started = unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), ptr.cast::<u8>(), data.len());
            let locked = std::slice::from_raw_parts(ptr.cast::<u8>(), data.len());
            result::memcpy_htod_async(to, locked, gpu.stream.cu_stream())
        };
        gpu.check(started, "copying to the GPU");
        gpu.check(copied.record(&gpu.stream), "recording an event");
    }

    /// Copies from the address `from` on the GPU after the stream's earlier work, and waits for the copy.
    pub fn fetch(&mut self, gpu: &Cuda, from: u64, into: &mut [u8]) {
        let LockedPages { ptr, .. } = self.free(gpu, into.len());
        // SAFETY: the buffer has room for `into` and nothing else uses it; the caller promises as many bytes at `from`.
        let locked = unsafe { std::slice::from_raw_parts_mut(ptr.cast::<u8>(), into.len()) };
        // SAFETY: as above; the copy is over before the slice is used again.
        let started = unsafe { result::memcpy_dtoh_async(locked, from, gpu.stream.cu_stream()) };
        gpu.check(started, "copying from the GPU");
        gpu.synchronize();
        into.copy_from_slice(locked);
    }

    fn free(&mut self, gpu: &Cuda, bytes: usize) -> &LockedPages {
        let pages = self.take(gpu, bytes);
        self.0.push(pages);
        &self.0[self.0.len() - 1]
    }

    /// Takes out a free buffer of at least `bytes`, or makes one.
    fn take(&mut self, gpu: &Cuda, bytes: usize) -> LockedPages {
        let free = |pages: &LockedPages| pages.bytes >= bytes && pages.copied.is_complete();
        let at = self.0.iter().position(free);
        at.map_or_else(|| LockedPages::new(gpu, bytes), |at| self.0.swap_remove(at))
    }
}

impl LockedPages {
    /// Allocates a buffer. Its size is rounded up to a power of two, so that rows of other lengths can reuse it.
    fn new(gpu: &Cuda, bytes: usize) -> LockedPages {
        let bytes = bytes.next_power_of_two();
        let flags = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let copied = gpu.check(gpu.context.new_event(flags), "making an event");
        // SAFETY: freed once, in `drop`.
        let ptr = gpu.check(unsafe { result::malloc_host(bytes, 0) }, "locking memory");
        // SAFETY: just allocated with this many bytes.
        unsafe { std::ptr::write_bytes(ptr.cast::<u8>(), 0, bytes) };
        LockedPages { ptr, bytes, copied }
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        // Errors show at the next call to the driver, if there is one.
        let _ = self.copied.synchronize();
        // SAFETY: from `malloc_host`, and no copy reads it any more.
        let _ = unsafe { result::free_host(self.ptr) };
    }
}

/// `len` values in host memory that a GPU reads and writes in place. Small values that are needed at once arrive sooner
/// this way than by a copy.
pub(crate) struct Locked<T> {
    gpu: Gpu,
    pages: Option<LockedPages>,
    len: usize,
    values: PhantomData<T>,
}

impl<T: HostNumber> Locked<T> {
    /// Makes a buffer for kernels to write to.
    pub fn new(gpu: &Gpu, len: usize) -> Locked<T> {
        let cuda = Cuda::of(gpu);
        cuda.bind();
        let pages = cuda.staging.lock().unwrap_or_else(|e| e.into_inner()).take(cuda, len * size_of::<T>());
        Locked { gpu: gpu.clone(), pages: Some(pages), len, values: PhantomData }
    }

    /// Makes a buffer with `values` for kernels to read.
    pub fn of(gpu: &Gpu, values: &[T]) -> Locked<T> {
        let locked = Locked::new(gpu, values.len());
        // SAFETY: the buffer has room for all values, and nobody uses it yet.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), locked.pages().ptr.cast(), values.len()) };
        locked
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns all values as a slice. Their address is the same on the host and on the GPU.
    pub fn slice(&self) -> Slice<'_> {
        Slice::at(self.pages().ptr as u64, self.len, T::DTYPE)
    }

    /// Marks the buffer as in use by all work so far. Must be called after every launch that gets the address.
    pub fn used(&self) {
        let cuda = Cuda::of(&self.gpu);
        cuda.check(self.pages().copied.record(&cuda.stream), "recording an event");
    }

    /// Waits for the last use and returns the values.
    pub fn read(&self) -> Vec<T> {
        Cuda::of(&self.gpu).check(self.pages().copied.synchronize(), "waiting for the GPU");
        // SAFETY: the buffer holds this many values, all bits are valid, and the kernel that writes them has ended.
        unsafe { std::slice::from_raw_parts(self.pages().ptr.cast::<T>(), self.len) }.to_vec()
    }

    fn pages(&self) -> &LockedPages {
        self.pages.as_ref().expect("there until dropped")
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        Cuda::of(&self.gpu).staging.lock().unwrap_or_else(|e| e.into_inner()).0.extend(self.pages.take());
    }
}

#[cfg(test)]
mod tests {
    use super::LARGEST;
    use crate::Device;
    use crate::testing::gpu;

    /// Sends many buffers at once, so that some are in use when they are wanted, and changes each source right after.
    #[test]
    fn copies_arrive_as_they_were_sent() {
        let Some(Device::Gpu(gpu)) = gpu() else { return };
        let values = |n: usize, len: usize| (0..len).map(|i| (n * 31 + i) as u32).collect::<Vec<u32>>();
        let lengths = |n: usize| [1, 7, 1_000, 65_536, LARGEST / 4, LARGEST / 4 + 1][n % 6];
        let send = |n: usize| {
            let mut data = values(n, lengths(n));
            let buffer = gpu.upload(&data);
            data.fill(0);
            buffer
        };
        let buffers: Vec<_> = (0..60).map(send).collect();
        for (n, buffer) in buffers.iter().enumerate() {
            let mut back = vec![0u32; buffer.len()];
            gpu.download(buffer.slice(), &mut back);
            assert!(back == values(n, lengths(n)), "upload {n} of {} values", back.len());
        }
    }
}
