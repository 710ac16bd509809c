//! Decodes one token for each of several rows on a GPU, with the model's kernels recorded as a CUDA graph.
//!
//! Within a graph the CPU launches no kernels one by one, and a kernel loads its weights before the previous one has
//! ended (they overlap). The number of rows is rounded up to a power of two, each with a graph of its own; padding rows
//! have length 0.

use std::collections::HashMap;

use nanochat_tensor::gpu::Graph;
use nanochat_tensor::{DecodeRow, Device, PagedKv, Shape, Tensor};

use crate::model::gpt::{JoinedWeights, RowBuffers};

pub struct DecodeStep {
    device: Device,
    pub(crate) buffers: RowBuffers,
    graphs: HashMap<Shape, Graph>,
}

impl DecodeStep {
    /// Makes a step for up to `max_rows` rows of the model's full context. Graphs keep the addresses of weights and
    /// cache, so every step must be given the same ones.
    pub fn new(model: &JoinedWeights, cache: &PagedKv, max_rows: usize) -> DecodeStep {
        let buffers = RowBuffers::new(model, cache, max_rows.next_power_of_two());
        DecodeStep { device: model.weights.wte.device(), buffers, graphs: HashMap::new() }
    }

    /// Returns the logits (R, V) after the softcap, on the GPU; the first of them belong to `rows`. The keys and values
    /// of the tokens are written into the cache.
    pub fn run(&mut self, model: &JoinedWeights, cache: &PagedKv, rows: &[DecodeRow]) -> &Tensor {
        let shape = self.buffers.rows.set(rows);
        if let Some(graph) = self.graphs.get_mut(&shape) {
            graph.launch();
        } else {
            // The first run launches kernel by kernel, since kernels are compiled and chosen then.
            self.buffers.run(model, cache, shape);
            let graph = self.device.record(|| self.buffers.run(model, cache, shape));
            self.graphs.insert(shape, graph);
        }
        &self.buffers.logits
    }
}
