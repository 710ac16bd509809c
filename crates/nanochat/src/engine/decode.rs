//! One token for each of some rows, on a GPU: the model as five kernels a layer, recorded as a CUDA graph.
//!
//! With few rows a step is the reading of the weights and of the rows' keys and values, and nothing must come between two
//! readings: no launch from the CPU (the graph), no pass over activations alone (all of them are part of a product or of
//! attention), no kernel that waits for the end of another before it asks for its weights (they overlap).
//! Numbers of rows are rounded up to powers of two, each with a graph of its own; rows that are not there have length 0.

use std::collections::HashMap;

use nanochat_tensor::cuda::Graph;
use nanochat_tensor::{
    DecodeRow, DecodeRows, Device, Epilogue, PAGE, PagedKv, Shape, Tensor, decode_attention, decode_linear,
};

use super::weights::GpuWeights;

pub struct DecodeStep {
    device: Device,
    pub(crate) rows: DecodeRows,
    graphs: HashMap<Shape, Graph>,
    // With R the most rows:
    x: Tensor,      // (R, C)
    norm: Tensor,   // (R, C)
    qkv: Tensor,    // (R, (H + 2 KVH) D)
    y: Tensor,      // (R, C)
    h: Tensor,      // (R, 4C)
    logits: Tensor, // (R, V)
}

impl DecodeStep {
    /// For up to `max_rows` rows at a time, as long as the model was trained for. Graphs keep the addresses of weights and
    /// cache: all steps must be given these.
    pub fn new(weights: &GpuWeights, cache: &PagedKv, max_rows: usize) -> DecodeStep {
        let (config, device) = (&weights.config, weights.wte.device());
        let r = max_rows.next_power_of_two();
        let pages = config.sequence_len.div_ceil(PAGE);
        let activation = |cols: usize| Tensor::zeros_on(&device, &[r, cols]).to_activation();
        DecodeStep {
            rows: DecodeRows::new(&weights.wte, config.n_head, cache, r, pages, config.rms_norm_eps),
            graphs: HashMap::new(),
            x: activation(config.n_embd),
            norm: activation(config.n_embd),
            qkv: activation(config.n_embd + 2 * config.kv_dim()),
            y: activation(config.n_embd),
            h: activation(4 * config.n_embd),
            logits: Tensor::zeros_on(&device, &[r, config.vocab_size]),
            device,
        }
    }

    /// Logits (R, V) after the softcap, on the GPU, the first of them those of `rows`. Keys and values of the tokens are
    /// written into the cache.
    pub fn run(&mut self, weights: &GpuWeights, cache: &PagedKv, rows: &[DecodeRow]) -> &Tensor {
        let shape = self.rows.set(rows);
        if let Some(graph) = self.graphs.get_mut(&shape) {
            graph.launch(&self.device);
        } else {
            // The first time kernel by kernel: they are compiled and chosen now.
            self.launch(weights, cache, shape);
            let device = self.device.clone();
            let graph = Graph::record(&device, || self.launch(weights, cache, shape));
            self.graphs.insert(shape, graph);
        }
        &self.logits
    }

    fn launch(&mut self, weights: &GpuWeights, cache: &PagedKv, shape: Shape) {
        let DecodeStep { rows, x, norm, qkv, y, h, logits, .. } = self;
        let (n, eps) = (shape.rows, weights.config.rms_norm_eps);
        rows.embed(x, &weights.wte, shape);
        for (i, layer) in weights.layers.iter().enumerate() {
            decode_linear(qkv, x, &layer.qkv, n, Some((norm, eps)), Epilogue::Plain);
            decode_attention(y, qkv, cache, i, &weights.rotary, rows, shape);
            decode_linear(x, y, &layer.attn_proj, n, None, Epilogue::Add);
            decode_linear(h, x, &layer.fc, n, Some((norm, eps)), Epilogue::ReluSquared);
            decode_linear(x, h, &layer.mlp_proj, n, None, Epilogue::Add);
        }
        decode_linear(logits, x, &weights.lm_head, n, Some((norm, eps)), Epilogue::Softcap);
    }
}
