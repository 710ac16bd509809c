//! Recorded work as CUDA graphs.

use cudarc::driver::{CudaGraph, sys};

use super::{Cuda, describe};
use crate::gpu::{Recording, fail};

struct RecordedGraph(CudaGraph);

// SAFETY: a graph is launched through `&mut self`, by one thread at a time, as the driver demands.
unsafe impl Send for RecordedGraph {}

impl Recording for RecordedGraph {
    fn launch(&mut self) {
        self.0.launch().unwrap_or_else(|e| fail(format!("launching a graph failed: {}", describe(e))));
    }
}

impl Cuda {
    pub(super) fn record_graph(&self, work: &mut dyn FnMut()) -> Box<dyn Recording> {
        self.bind();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.check(self.stream.begin_capture(mode), "recording a graph");
        work();
        let flags = sys::CUgraphInstantiate_flags(0);
        let graph = self.check(self.stream.end_capture(flags), "recording a graph");
        let nothing = || fail("recording a graph failed: nothing was recorded".into());
        Box::new(RecordedGraph(graph.unwrap_or_else(nothing)))
    }

    /// Whether a kernel may begin before the previous one has ended (programmatic dependent launch).
    pub(super) fn overlaps(&self) -> bool {
        !matches!(self.arch, "sm_80" | "sm_86" | "sm_89")
    }
}
