//! Page-locked memory of the CPU, through which small copies to the GPU go without holding up either side, and back
//! without a detour; kernels reach it too.
//!
//! A copy from ordinary memory waits until the driver has staged it. Here the values of a batch are copied into
//! a locked buffer, and the copy to the GPU is left to the stream. A buffer is taken again once its copy is done;
//! as the CPU runs a micro-step or two ahead, a handful of buffers is soon all there is.

use std::ffi::c_void;
use std::marker::PhantomData;

use cudarc::driver::{CudaEvent, result, sys};

use super::Cuda;
use crate::dtype::Number;
use crate::gpu::{Gpu, Slice};

/// Copies up to this size go through here: 4 MiB are the ids of a million tokens. Weights, which are copied
/// once, take the driver's own way.
pub(super) const LARGEST: usize = 4 << 20;

/// The locked buffers, those in use and those free.
#[derive(Default)]
pub(super) struct Staging(Vec<Pages>);

struct Pages {
    ptr: *mut c_void,
    bytes: usize,
    /// Passed by the stream when the last copy from here is done.
    copied: CudaEvent,
}

// SAFETY: a plain allocation, used behind the lock of its owner.
unsafe impl Send for Pages {}

impl Staging {
    /// Copies `data` to the address `to` of the GPU, in the stream's order.
    pub fn copy(&mut self, gpu: &Cuda, to: u64, data: &[u8]) {
        let Pages { ptr, copied, .. } = self.free(gpu, data.len());
        // SAFETY: the buffer has room for `data` and no copy uses it; `to` is as large by the caller's word, and
        // the buffer stays until the event below has passed.
        let started = unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), ptr.cast::<u8>(), data.len());
            let locked = std::slice::from_raw_parts(ptr.cast::<u8>(), data.len());
            result::memcpy_htod_async(to, locked, gpu.stream.cu_stream())
        };
        gpu.check(started, "copying to the GPU");
        gpu.check(copied.record(&gpu.stream), "recording an event");
    }

    /// Copies what lies at the address `from` of the GPU, when the stream has come there, and waits for it.
    pub fn fetch(&mut self, gpu: &Cuda, from: u64, into: &mut [u8]) {
        let Pages { ptr, .. } = self.free(gpu, into.len());
        // SAFETY: the buffer has room for `into` and no copy uses it, nor anyone else its memory; `from` is as large by
        // the caller's word.
        let locked = unsafe { std::slice::from_raw_parts_mut(ptr.cast::<u8>(), into.len()) };
        // SAFETY: as above; the copy is over before the slice is used again.
        let started = unsafe { result::memcpy_dtoh_async(locked, from, gpu.stream.cu_stream()) };
        gpu.check(started, "copying from the GPU");
        gpu.synchronize();
        into.copy_from_slice(locked);
    }

    fn free(&mut self, gpu: &Cuda, bytes: usize) -> &Pages {
        let pages = self.take(gpu, bytes);
        self.0.push(pages);
        &self.0[self.0.len() - 1]
    }

    /// Takes out a buffer that nobody uses.
    fn take(&mut self, gpu: &Cuda, bytes: usize) -> Pages {
        let free = |pages: &Pages| pages.bytes >= bytes && pages.copied.is_complete();
        let at = self.0.iter().position(free);
        at.map_or_else(|| Pages::new(gpu, bytes), |at| self.0.swap_remove(at))
    }
}

impl Pages {
    /// Sizes are rounded up, so that rows of other lengths find it large enough too.
    fn new(gpu: &Cuda, bytes: usize) -> Pages {
        let bytes = bytes.next_power_of_two();
        let flags = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let copied = gpu.check(gpu.context.new_event(flags), "making an event");
        // SAFETY: freed once, in `drop`.
        let ptr = gpu.check(unsafe { result::malloc_host(bytes, 0) }, "locking memory");
        // SAFETY: just allocated, of so many bytes.
        unsafe { std::ptr::write_bytes(ptr.cast::<u8>(), 0, bytes) };
        Pages { ptr, bytes, copied }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Errors show at the next call to the driver, if there is one.
        let _ = self.copied.synchronize();
        // SAFETY: from `malloc_host`, and no copy reads it any more.
        let _ = unsafe { result::free_host(self.ptr) };
    }
}

/// `len` values of the CPU's that a GPU writes or reads where they lie: what is small and asked for at once comes sooner
/// than by a copy.
pub(crate) struct Locked<T> {
    gpu: Gpu,
    pages: Option<Pages>,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Number> Locked<T> {
    /// For a kernel to write to.
    pub fn new(gpu: &Gpu, len: usize) -> Locked<T> {
        let cuda = Cuda::of(gpu);
        cuda.bind();
        let pages = cuda.staging.lock().unwrap_or_else(|e| e.into_inner()).take(cuda, len * size_of::<T>());
        Locked { gpu: gpu.clone(), pages: Some(pages), len, values: PhantomData }
    }

    /// For kernels to read.
    pub fn of(gpu: &Gpu, values: &[T]) -> Locked<T> {
        let locked = Locked::new(gpu, values.len());
        // SAFETY: so many values have room, and nobody uses them yet.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), locked.pages().ptr.cast(), values.len()) };
        locked
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// All of the values, which lie at one address on both sides.
    pub fn slice(&self) -> Slice<'_> {
        Slice::at(self.pages().ptr as u64, self.len, T::DTYPE)
    }

    /// To be said after every launch that is given the address.
    pub fn used(&self) {
        let cuda = Cuda::of(&self.gpu);
        cuda.check(self.pages().copied.record(&cuda.stream), "recording an event");
    }

    /// The values after the last use; waits for it.
    pub fn read(&self) -> Vec<T> {
        Cuda::of(&self.gpu).check(self.pages().copied.synchronize(), "waiting for the GPU");
        // SAFETY: so many values are there, whatever their bits, and what was to write them has ended.
        unsafe { std::slice::from_raw_parts(self.pages().ptr.cast::<T>(), self.len) }.to_vec()
    }

    fn pages(&self) -> &Pages {
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

    /// Many at a time, so that buffers are in use when they are wanted; each changed right after.
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
