//! One token for each of some rows, on a GPU: the model's kernels recorded as a CUDA graph.
//!
//! No launch from the CPU comes between two kernels (the graph), and no kernel waits for the end of another before it asks
//! for its weights (they overlap). Numbers of rows are rounded up to powers of two, each with a graph of its own;
//! rows that are not there have length 0.

use std::collections::HashMap;

use nanochat_tensor::cuda::Graph;
use nanochat_tensor::{DecodeRow, Device, PagedKv, Shape, Tensor};

use crate::gpt::{JoinedWeights, RowBuffers};

pub struct DecodeStep {
    device: Device,
    pub(crate) buffers: RowBuffers,
    graphs: HashMap<Shape, Graph>,
}

impl DecodeStep {
    /// For up to `max_rows` rows at a time, as long as the model was trained for. Graphs keep the addresses of weights and
    /// cache: all steps must be given these.
    pub fn new(model: &JoinedWeights, cache: &PagedKv, max_rows: usize) -> DecodeStep {
        let buffers = RowBuffers::new(model, cache, max_rows.next_power_of_two());
        DecodeStep { device: model.weights.wte.device(), buffers, graphs: HashMap::new() }
    }

    /// Logits (R, V) after the softcap, on the GPU, the first of them those of `rows`. Keys and values of the tokens are
    /// written into the cache.
    pub fn run(&mut self, model: &JoinedWeights, cache: &PagedKv, rows: &[DecodeRow]) -> &Tensor {
        let shape = self.buffers.rows.set(rows);
        if let Some(graph) = self.graphs.get_mut(&shape) {
            graph.launch(&self.device);
        } else {
            // The first time kernel by kernel: they are compiled and chosen now.
            self.buffers.run(model, cache, shape);
            let graph = Graph::record(&self.device, || self.buffers.run(model, cache, shape));
            self.graphs.insert(shape, graph);
        }
        &self.buffers.logits
    }
}
