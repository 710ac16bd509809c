//! The devices on which tensors live. CUDA is always compiled in and opened at run time: the same program runs without
//! a GPU, and a build without one type-checks every launch.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::cuda::Cuda;
use crate::gpu::{Gpu, Graph, KernelLanguage};
use crate::profile::Clock;
use crate::{Dtype, Recipe};

pub use crate::cuda::DeviceError;

#[derive(Clone)]
pub enum Device {
    Cpu,
    Gpu(Gpu),
}

/// The properties that decide how a device is used well. Callers ask for a property, never for the kind of device.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// Whether tensors lie in the device's own memory; otherwise they lie in the program's, where their values are read
    /// in place.
    pub own_memory: bool,
    /// Whether work is only queued: calls return at once, and [`Device::synchronize`] waits for the results.
    pub queues_work: bool,
    /// Whether a recording ([`profile`](crate::profile)) has the time of every kernel, by the device's own clock.
    pub times_kernels: bool,
    /// Whether the first product of each shape is slow: a GPU then compiles kernels and times its algorithms, 0.3 s per
    /// product. Batches of few shapes cost less there, even with padding.
    pub tunes_to_shapes: bool,
    /// The only types that a model computes in on this device; None if the caller chooses.
    pub only_recipe: Option<Recipe>,
    /// The type of the values between ops, and of the keys and values in the engine's cache.
    pub activations: Dtype,
}

impl Properties {
    pub const CPU: Properties = Properties {
        own_memory: false,
        queues_work: false,
        times_kernels: false,
        tunes_to_shapes: false,
        only_recipe: None,
        activations: Recipe::F32.activations,
    };
    pub const CUDA: Properties = Properties {
        own_memory: true,
        queues_work: true,
        times_kernels: true,
        tunes_to_shapes: true,
        only_recipe: Some(Recipe::BF16),
        activations: Recipe::BF16.activations,
    };
}

impl Device {
    /// Returns the device's properties.
    pub fn properties(&self) -> &'static Properties {
        match self {
            Device::Cpu => &Properties::CPU,
            Device::Gpu(gpu) => match gpu.language() {
                KernelLanguage::Cuda => &Properties::CUDA,
            },
        }
    }

    /// Opens an NVIDIA GPU and checks for all that training on it needs. The error says what is missing.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        Ok(Device::Gpu(Cuda::open(ordinal)?))
    }

    /// Waits until all work given to the device is done.
    pub fn synchronize(&self) {
        if let Device::Gpu(gpu) = self {
            gpu.synchronize();
        }
    }

    /// Returns the clock that times the device's kernels; None if the program's own clock does.
    pub fn clock(&self) -> Option<Arc<dyn Clock>> {
        match self {
            Device::Cpu => None,
            Device::Gpu(gpu) => Some(Arc::new(gpu.clone())),
        }
    }

    /// Records what `work` gives to a GPU, as [`Graph::record`] says.
    ///
    /// # Panics
    /// On the CPU, which cannot record.
    #[track_caller]
    pub fn record(&self, work: impl FnMut()) -> Graph {
        let Device::Gpu(gpu) = self else { panic!("recordings are a GPU's") };
        Graph::record(gpu, work)
    }

    /// Returns the bytes that tensors can still get; None if the device has no memory of its own.
    pub fn free_bytes(&self) -> Option<usize> {
        match self {
            Device::Cpu => None,
            Device::Gpu(gpu) => Some(gpu.free_bytes()),
        }
    }

    /// Sets the advice at the end of the out-of-memory message: a whole clause, such as "--device-batch-size 8 fits".
    /// Does nothing if the device has no memory of its own.
    pub fn advise_when_full(&self, advice: String) {
        if let Device::Gpu(gpu) = self {
            gpu.advise_when_full(advice);
        }
    }

    /// Returns (most bytes ever held, bytes of the whole card); None if the device has no memory of its own.
    pub fn memory(&self) -> Option<(usize, usize)> {
        match self {
            Device::Cpu => None,
            Device::Gpu(gpu) => Some((gpu.peak_bytes(), gpu.total_bytes())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("CPU"),
            Device::Gpu(gpu) => f.write_str(gpu.name()),
        }
    }
}

/// A device by name, before it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    #[default]
    Cpu,
    Cuda,
}

impl DeviceChoice {
    /// Opens the CPU, or the machine's GPU of number `ordinal`. A process that sees only one GPU opens that one.
    pub fn open(self, ordinal: usize) -> Result<Device, DeviceError> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda if Cuda::count() == 1 => Device::cuda(0),
            DeviceChoice::Cuda => Device::cuda(ordinal),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Cuda => "cuda",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<DeviceChoice, String> {
        match name {
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda),
            _ => Err("choose cpu or cuda".into()),
        }
    }
}
