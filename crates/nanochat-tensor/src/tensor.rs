//! A contiguous, row-major array: f32 on the CPU, f32 or bf16 on a GPU. There are no strides: an op that needs another
//! layout is another op. Weights for generation may be packed (packed/mod.rs); only products read those.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::Dtype;
use crate::device::Device;
use crate::gpu::{Buffer, Gpu, Slice};
use crate::packed::Packed;
use crate::reuse::{self, Values};

const SHARED: &str = "tensor is still shared with a tape";

/// The key of a tensor's gradient. Clones and reshapes of a tensor share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TensorId(u64);

#[derive(Clone)]
pub struct Tensor {
    id: TensorId,
    shape: Vec<usize>,
    storage: Arc<Storage>,
}

/// The destination of a tensor's gradient: all that backward needs of an input whose values it does not use, so that
/// the values are freed during the forward pass.
#[derive(Clone)]
pub(crate) struct Target {
    pub id: TensorId,
    shape: Vec<usize>,
    on_gpu: Option<(Gpu, Dtype)>,
}

impl Target {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Makes a tensor of unknown values for a first gradient, in the tensor's type: float32 for weights.
    pub fn fresh(&self) -> Tensor {
        match &self.on_gpu {
            None => Tensor::new(reuse::any(self.len()), &self.shape),
            Some((gpu, dtype)) => Tensor::unwritten(gpu, *dtype, &self.shape),
        }
    }
}

#[derive(Clone)]
enum Storage {
    Cpu(Values),
    Packed(Packed),
    Gpu(GpuStorage),
}

/// Values on a GPU. float32 weights have a bf16 copy for products, made when it is first needed after a change: once
/// per step.
struct GpuStorage {
    buffer: Buffer,
    bf16: Bf16Copy,
}

#[derive(Default)]
struct Bf16Copy {
    buffer: OnceLock<Buffer>,
    is_fresh: Mutex<bool>,
}

impl Clone for GpuStorage {
    fn clone(&self) -> GpuStorage {
        GpuStorage { buffer: self.buffer.clone(), bf16: Bf16Copy::default() }
    }
}

impl Tensor {
    #[track_caller]
    pub fn new(data: Vec<f32>, shape: &[usize]) -> Tensor {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "data does not fill shape {shape:?}");
        Tensor::of(Storage::Cpu(Values(data)), shape)
    }

    pub fn zeros(shape: &[usize]) -> Tensor {
        Tensor::new(reuse::zeros(shape.iter().product()), shape)
    }

    /// Returns zeros of the same shape, on the same device, in float32.
    pub fn zeros_like(&self) -> Tensor {
        Tensor::zeros_on(&self.device(), &self.shape)
    }

    /// Returns zeros on `device`, in float32.
    pub fn zeros_on(device: &Device, shape: &[usize]) -> Tensor {
        match device {
            Device::Cpu => Tensor::zeros(shape),
            Device::Gpu(gpu) => Tensor::on_gpu(gpu.zeros(shape.iter().product(), Dtype::F32), shape),
        }
    }

    #[track_caller]
    pub(crate) fn on_gpu(buffer: Buffer, shape: &[usize]) -> Tensor {
        assert_eq!(buffer.len(), shape.iter().product::<usize>(), "data does not fill shape {shape:?}");
        Tensor::of(Storage::Gpu(GpuStorage { buffer, bf16: Bf16Copy::default() }), shape)
    }

    /// Makes a tensor of unknown values, for a kernel that writes all of them.
    pub(crate) fn unwritten(gpu: &Gpu, dtype: Dtype, shape: &[usize]) -> Tensor {
        Tensor::on_gpu(gpu.alloc(shape.iter().product(), dtype), shape)
    }

    fn of(storage: Storage, shape: &[usize]) -> Tensor {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = TensorId(NEXT.fetch_add(1, Ordering::Relaxed));
        Tensor { id, shape: shape.to_vec(), storage: Arc::new(storage) }
    }

    pub(crate) fn id(&self) -> TensorId {
        self.id
    }

    pub(crate) fn target(&self) -> Target {
        let on_gpu = self.gpu().map(|gpu| (gpu.clone(), self.dtype()));
        Target { id: self.id, shape: self.shape.clone(), on_gpu }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn len(&self) -> usize {
        match &*self.storage {
            Storage::Cpu(data) => data.len(),
            Storage::Packed(packed) => packed.shape().iter().product(),
            Storage::Gpu(on_gpu) => on_gpu.buffer.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the last dimension; all dimensions before it count as rows.
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("tensor has no dimensions")
    }

    pub fn rows(&self) -> usize {
        self.len() / self.cols().max(1)
    }

    pub fn device(&self) -> Device {
        self.gpu().map_or(Device::Cpu, |gpu| Device::Gpu(gpu.clone()))
    }

    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match &*self.storage {
            Storage::Cpu(_) | Storage::Packed(_) => None,
            Storage::Gpu(on_gpu) => Some(on_gpu.buffer.gpu()),
        }
    }

    /// Returns the values of a tensor on the CPU.
    ///
    /// # Panics
    /// If the tensor is packed or on a GPU.
    #[track_caller]
    pub fn data(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(data) => data,
            Storage::Packed(_) => panic!("tensor {:?} is packed; `host` unpacks it", self.shape),
            Storage::Gpu(_) => panic!("tensor {:?} is on the GPU; `host` copies it", self.shape),
        }
    }

    /// Returns the values in float32, copied from the GPU or unpacked if necessary.
    pub fn host(&self) -> Cow<'_, [f32]> {
        match &*self.storage {
            Storage::Cpu(data) => Cow::Borrowed(data),
            Storage::Packed(packed) => Cow::Owned(packed.unpack()),
            Storage::Gpu(on_gpu) => Cow::Owned(download(&on_gpu.buffer)),
        }
    }

    /// Returns the value of a scalar; waits for the GPU.
    #[track_caller]
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item of {:?}", self.shape);
        self.host()[0]
    }

    /// Returns the same values on `device`: without a copy if they are there already, in float32 on the CPU, in the
    /// same type on another GPU.
    pub fn to_device(&self, device: &Device) -> Tensor {
        match (device, self.gpu()) {
            (Device::Cpu, None) => self.clone(),
            (Device::Gpu(to), Some(from)) if to.is(from) => self.clone(),
            (Device::Cpu, Some(_)) => Tensor::new(self.host().into_owned(), &self.shape),
            (Device::Gpu(to), _) => {
                let copy = Tensor::on_gpu(to.upload(&self.host()), &self.shape);
                if self.is_bf16() { copy.to_activation() } else { copy }
            }
        }
    }

    /// Returns a weight (out, in) on the CPU in packed form, for products with few rows.
    #[track_caller]
    pub fn to_packed(&self, dtype: Dtype) -> Tensor {
        let &[out, inp] = self.shape() else { panic!("only matrices are packed, found {:?}", self.shape) };
        Tensor::of(Storage::Packed(Packed::new(self.data(), [out, inp], dtype)), &self.shape)
    }

    pub fn packed(&self) -> Option<&Packed> {
        match &*self.storage {
            Storage::Packed(packed) => Some(packed),
            _ => None,
        }
    }

    /// Returns the values rounded to bf16, the type of activations, on a GPU; the same tensor on the CPU.
    pub fn to_activation(&self) -> Tensor {
        match self.gpu().cloned() {
            Some(gpu) if self.dtype() == Dtype::F32 => {
                let rounded = Tensor::unwritten(&gpu, Dtype::Bf16, &self.shape);
                gpu.convert(rounded.slice(), self.slice());
                rounded
            }
            _ => self.clone(),
        }
    }

    /// Returns the rows of `parts`, one after another, rounded to bf16, on the GPU where they are.
    #[track_caller]
    pub fn rounded(parts: &[&Tensor]) -> Tensor {
        let gpu = parts[0].buffer().gpu();
        let rows = parts.iter().map(|part| part.rows()).sum();
        let mut all = Tensor::unwritten(gpu, Dtype::Bf16, &[rows, parts[0].cols()]);
        all.set_rounded(parts);
        all
    }

    /// Overwrites a tensor that `rounded` made with values of the same shapes. The address stays.
    #[track_caller]
    pub fn set_rounded(&mut self, parts: &[&Tensor]) {
        let cols = self.cols();
        assert!(parts.iter().all(|part| part.cols() == cols), "parts of other widths than {cols}");
        assert_eq!(
            parts.iter().map(|part| part.len()).sum::<usize>(),
            self.len(),
            "parts for {:?}",
            self.shape
        );
        let storage = Arc::get_mut(&mut self.storage).expect("nobody else reads what is overwritten");
        let Storage::Gpu(GpuStorage { buffer, .. }) = storage else { panic!("rounded weights are on a GPU") };
        let mut to = buffer.slice();
        for part in parts {
            buffer.gpu().convert(to, part.slice());
            to = to.from(part.len());
        }
    }

    /// Returns a copy of these rows.
    pub fn gather_rows(&self, rows: &[usize]) -> Tensor {
        let (c, shape) = (self.cols(), [rows.len(), self.cols()]);
        match self.gpu() {
            None => {
                Tensor::new(rows.iter().flat_map(|n| &self.data()[n * c..][..c]).copied().collect(), &shape)
            }
            Some(gpu) => {
                let some = Tensor::unwritten(gpu, self.dtype(), &shape);
                let mut to = some.slice();
                for run in rows.chunk_by(|n, next| n + 1 == *next) {
                    let from = self.slice().part(run[0] * c..(run[0] + run.len()) * c);
                    gpu.copy(to, from);
                    to = to.from(from.len());
                }
                some
            }
        }
    }

    #[track_caller]
    pub(crate) fn buffer(&self) -> &Buffer {
        match &*self.storage {
            Storage::Gpu(on_gpu) => &on_gpu.buffer,
            _ => panic!("tensor {:?} is on the CPU, the others on the GPU", self.shape),
        }
    }

    /// Returns the values on the GPU.
    #[track_caller]
    pub(crate) fn slice(&self) -> Slice<'_> {
        self.buffer().slice()
    }

    #[track_caller]
    pub(crate) fn dtype(&self) -> Dtype {
        self.buffer().dtype()
    }

    /// Whether its values lie on a GPU in bf16.
    pub(crate) fn is_bf16(&self) -> bool {
        self.gpu().is_some() && self.dtype() == Dtype::Bf16
    }

    /// Returns the values on the GPU in bf16; converts float32 values if they have changed since the last call.
    #[track_caller]
    pub(crate) fn bf16_slice(&self) -> Slice<'_> {
        let Storage::Gpu(on_gpu) = &*self.storage else { return self.slice() };
        if on_gpu.buffer.dtype() == Dtype::Bf16 {
            return on_gpu.buffer.slice();
        }
        let gpu = on_gpu.buffer.gpu();
        let mut is_fresh = on_gpu.bf16.is_fresh.lock().unwrap_or_else(|e| e.into_inner());
        let buffer = on_gpu.bf16.buffer.get_or_init(|| gpu.alloc(on_gpu.buffer.len(), Dtype::Bf16));
        if !std::mem::replace(&mut *is_fresh, true) {
            gpu.convert(buffer.slice(), on_gpu.buffer.slice());
        }
        buffer.slice()
    }

    /// Returns the values for the optimizer to write. Like `data_mut`, it panics rather than change a weight that a
    /// tape shares.
    #[track_caller]
    pub(crate) fn unshared_slice_mut(&mut self) -> Slice<'_> {
        assert!(Arc::get_mut(&mut self.storage).is_some(), "{SHARED}");
        self.slice_mut()
    }

    /// Returns the values for writing. Like `make_mut`, it copies them first if they are shared.
    pub(crate) fn slice_mut(&mut self) -> Slice<'_> {
        match Arc::make_mut(&mut self.storage) {
            Storage::Gpu(on_gpu) => {
                *on_gpu.bf16.is_fresh.get_mut().unwrap_or_else(|e| e.into_inner()) = false;
                on_gpu.buffer.slice()
            }
            _ => panic!("tensor {:?} is on the CPU, the others on the GPU", self.shape),
        }
    }

    /// Returns the values for the optimizer to write. A live tape shares every tensor that its backward needs, so this
    /// panics rather than change a weight that a forward pass has used.
    pub fn data_mut(&mut self) -> &mut [f32] {
        match Arc::get_mut(&mut self.storage).expect(SHARED) {
            Storage::Cpu(data) => data,
            _ => panic!("tensor {:?} is on the GPU or packed", self.shape),
        }
    }

    /// Returns the values for writing; copies them first if they are shared.
    #[track_caller]
    pub(crate) fn make_mut(&mut self) -> &mut [f32] {
        match Arc::make_mut(&mut self.storage) {
            Storage::Cpu(data) => data,
            _ => panic!("tensor {:?} is on the GPU or packed", self.shape),
        }
    }

    /// Overwrites the values from index `at` on with the values `from` of `source`, which is on the same device.
    #[track_caller]
    pub fn write(&mut self, at: usize, source: &Tensor, from: Range<usize>) {
        assert!(at + from.len() <= self.len() && from.end <= source.len(), "{from:?} of {:?}", source.shape);
        let Some(gpu) = source.gpu().cloned() else {
            return self.data_mut()[at..][..from.len()].copy_from_slice(&source.data()[from]);
        };
        let to = self.unshared_slice_mut();
        gpu.copy(to.from(at), source.slice().part(from));
    }

    /// Returns the same values, with the same gradient, in another shape.
    #[track_caller]
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product::<usize>();
        assert_eq!(self.len(), len, "cannot view {:?} as {shape:?}", self.shape);
        Tensor { id: self.id, shape: shape.to_vec(), storage: self.storage.clone() }
    }
}

fn download(buffer: &Buffer) -> Vec<f32> {
    match buffer.dtype() {
        Dtype::F32 => {
            let mut values = vec![0.0; buffer.len()];
            buffer.gpu().download(buffer.slice(), &mut values);
            values
        }
        Dtype::Bf16 => {
            let mut bits = vec![0u16; buffer.len()];
            buffer.gpu().download(buffer.slice(), &mut bits);
            bits.into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect()
        }
        other @ (Dtype::Int8 | Dtype::U32) => other.has_no("tensor on a GPU"),
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values = self.host();
        write!(f, "Tensor{:?}{:?}", self.shape, &values[..self.len().min(8)])
    }
}
