//! A second kind of GPU, for tests without a card: its memory is the program's, its kernels are only logged, and
//! everything else works as [`GpuBackend`] says. It shows what a kind must implement.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Instant;

use super::{GpuBackend, KernelCall, KernelLanguage, MemoryUse, Product, Recording, Slice};
use crate::Dtype;
use crate::profile::{Clock, Event};

/// The buffers by their first address, and the kernels that were launched.
#[derive(Default)]
pub(crate) struct Stub {
    buffers: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub started: Mutex<Vec<String>>,
}

impl Stub {
    /// Calls `f` with the bytes of a slice.
    fn bytes<T>(&self, slice: Slice, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffers = self.buffers.lock().unwrap();
        let (first, buffer) = buffers.range_mut(..=slice.address()).next_back().expect("no such buffer");
        let start = (slice.address() - first) as usize;
        f(&mut buffer[start..][..slice.bytes()])
    }
}

impl Clock for Stub {
    fn mark(&self) -> Event {
        Rc::new(Instant::now())
    }

    fn milliseconds(&self, from: &Event, to: &Event) -> f32 {
        let [from, to] = [from, to].map(|event| *event.downcast_ref::<Instant>().unwrap());
        to.duration_since(from).as_secs_f32() * 1e3
    }

    fn wait(&self) {}
}

impl GpuBackend for Stub {
    fn name(&self) -> &str {
        "a stub"
    }

    fn language(&self) -> KernelLanguage {
        KernelLanguage::Cuda
    }

    fn memory(&self) -> MemoryUse {
        let used = self.buffers.lock().unwrap().values().map(Vec::len).sum();
        MemoryUse { free: usize::MAX - used, peak: used, total: usize::MAX }
    }

    fn advise_when_full(&self, _: String) {}

    fn alloc(&self, bytes: usize) -> u64 {
        let mut buffers = self.buffers.lock().unwrap();
        let address = buffers.last_key_value().map_or(1 << 20, |(at, buffer)| at + buffer.len() as u64 + 256);
        buffers.insert(address, vec![0xff; bytes]);
        address
    }

    fn free(&self, address: u64) {
        self.buffers.lock().unwrap().remove(&address).expect("freed once");
    }

    fn clear(&self, slice: Slice) {
        self.bytes(slice, |bytes| bytes.fill(0));
    }

    fn write(&self, to: Slice, bytes: &[u8]) {
        self.bytes(to, |into| into[..bytes.len()].copy_from_slice(bytes));
    }

    fn read(&self, from: Slice, into: &mut [u8]) {
        self.bytes(from, |bytes| into.copy_from_slice(&bytes[..into.len()]));
    }

    fn copy(&self, to: Slice, from: Slice) {
        let values = self.bytes(from, |bytes| bytes.to_vec());
        self.write(to, &values);
    }

    fn convert(&self, to: Slice, from: Slice) {
        let values = self.bytes(from, |bytes| bytes.to_vec());
        let converted: Vec<u8> = match from.dtype() {
            Dtype::F32 => {
                let values = values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
                values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect()
            }
            Dtype::Bf16 => {
                let values = values.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32());
                values.flat_map(f32::to_le_bytes).collect()
            }
            other @ (Dtype::Int8 | Dtype::U32) => other.has_no("conversion on the stub"),
        };
        self.write(to, &converted);
    }

    unsafe fn launch(&self, kernel: &KernelCall, _: [usize; 3], _: u32, _: u32) {
        self.started.lock().unwrap().push(format!("{}::{}", kernel.file.0, kernel.name));
    }

    fn multiply(&self, product: &Product) {
        let Product { m, n, k, .. } = product;
        self.started.lock().unwrap().push(format!("product {m} x {n} x {k}"));
    }

    /// Runs the work once; the recording is empty.
    fn record(&self, work: &mut dyn FnMut()) -> Box<dyn Recording> {
        struct Nothing;
        impl Recording for Nothing {
            fn launch(&mut self) {}
        }
        work();
        Box::new(Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::Stub;
    use crate::gpu::Gpu;
    use crate::ops::EPS;
    use crate::testing::randn;
    use crate::{Device, Grads, Tape, Tensor};

    fn stub() -> Device {
        Device::Gpu(Gpu::new(Stub::default()))
    }

    #[test]
    fn tensors_live_on_any_kind_of_gpu() {
        let (device, x) = (stub(), randn(&[6, 4], 0));
        let there = x.to_device(&device);
        assert_eq!(there.host().as_ref(), x.data());
        assert_eq!(there.gather_rows(&[1, 2, 5]).host().as_ref(), x.gather_rows(&[1, 2, 5]).data());
        let rounded = there.to_activation().host().into_owned();
        assert_eq!(rounded, x.data().iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect::<Vec<_>>());
        let mut zeros = Tensor::zeros_on(&device, &[6, 4]);
        zeros.write(4, &there, 8..12);
        assert_eq!(zeros.host()[4..8], x.data()[8..12]);
    }

    #[test]
    fn ops_ask_the_seam_alone() {
        let device = stub();
        let Device::Gpu(gpu) = &device else { unreachable!() };
        let [x, w] = [0, 1].map(|seed| randn(&[64, 64], seed).to_device(&device));
        let (tape, mut grads) = (Tape::new(), Grads::default());
        let y = tape.linear(&tape.rms_norm(&x.to_activation(), EPS), &w);
        grads.add(&y, y.clone());
        tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads);
        let started = gpu.kind::<Stub>().unwrap().started.lock().unwrap();
        let product = "product 64 x 64 x 64".to_string();
        let norm = |way: &str| format!("rms_norm::rms_norm_{way}_2");
        assert_eq!(*started, [norm("forward"), product.clone(), product.clone(), product, norm("backward")]);
    }
}
