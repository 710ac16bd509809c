//! A sequence of launches, recorded once and given to the GPU as one: 0.75 µs a kernel where a launch of its own takes
//! 3.7 (an H200), and no work for the CPU.
//!
//! What is recorded keeps its addresses and grid sizes. So it must not allocate, copy from the CPU or wait, and whatever
//! changes between replays is read from memory.

use cudarc::driver::{CudaGraph, sys};

use super::{Cuda, fail};
use crate::Device;

pub struct Graph(CudaGraph);

// SAFETY: a graph is launched through `&mut self`, by one thread at a time, as the driver demands.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` gives to the GPU; none of it runs. Kernels and products must have run once before: the first
    /// time they are loaded and chosen. No other thread may give work to this device meanwhile: it would be recorded too, or
    /// end the driver.
    #[track_caller]
    pub fn record(device: &Device, work: impl FnOnce()) -> Graph {
        let Device::Cuda(gpu) = device else { panic!("graphs are a GPU's") };
        gpu.bind();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        gpu.check(gpu.stream.begin_capture(mode), "recording a graph");
        work();
        let flags = sys::CUgraphInstantiate_flags(0);
        let graph = gpu.check(gpu.stream.end_capture(flags), "recording a graph");
        Graph(graph.unwrap_or_else(|| fail("recording a graph failed: nothing was recorded".into())))
    }

    /// Gives all of it to the GPU.
    pub fn launch(&mut self, device: &Device) {
        let Device::Cuda(gpu) = device else { panic!("graphs are a GPU's") };
        gpu.check(self.0.launch(), "launching a graph");
    }
}

impl Cuda {
    /// Whether a kernel may begin before the one in front of it has ended (programmatic dependent launch).
    pub(crate) fn overlaps(&self) -> bool {
        !matches!(self.arch, "sm_80" | "sm_86" | "sm_89")
    }
}

#[cfg(test)]
mod tests {
    use super::Graph;
    use crate::Tensor;
    use crate::ops::elementwise;
    use crate::testing::{gpu_alone, randn};

    #[test]
    fn a_graph_does_again_what_was_recorded() {
        let Some(device) = gpu_alone() else { return };
        let (x, mut sum) = (randn(&[300], 0).to_device(&device), Tensor::zeros(&[300]).to_device(&device));
        let mut add = || elementwise::add_scaled(&mut sum, &x, 1.0, 1.0);
        add();
        let mut graph = Graph::record(&device, &mut add);
        (0..3).for_each(|_| graph.launch(&device));
        let want: Vec<f32> = x.host().iter().map(|x| ((x + x) + x) + x).collect();
        assert_eq!(sum.host().as_ref(), want);
    }
}
