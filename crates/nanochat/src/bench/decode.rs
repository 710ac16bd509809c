//! Measures where the time of a decode step on a GPU goes: each kernel alone, run as often as in a step and on each
//! layer's own weights, compared with the minimum time to read its bytes and with the whole step.

use anyhow::{Result, bail, ensure};
use nanochat_tensor::gpu::Gpu;
use nanochat_tensor::{
    DecodeRow, Device, Epilogue, PAGE, PagedKv, Rng, Tensor, decode_attention, decode_linear,
};
use serde::Serialize;

use super::infer::random_model;
use super::ops::copy_tb_per_second;
use crate::engine::decode::DecodeStep;
use crate::model::config::GptConfig;
use crate::model::gpt::JoinedWeights;
use crate::terminal::flag_values;

/// The graph replays that are timed together.
const REPLAYS: usize = 20;

#[derive(Clone, Debug, clap::Args)]
pub struct DecodeBench {
    /// Layers; the width is 64 times this number
    #[arg(long, value_parser = flag_values::amount, default_value_t = 20)]
    pub depth: usize,
    /// Size of the vocabulary
    #[arg(long, value_parser = flag_values::amount, default_value_t = 65_536)]
    pub vocab_size: usize,
    /// Cached tokens per row
    #[arg(long, value_parser = flag_values::count, default_value_t = 1_056)]
    pub context: usize,
    /// Length of the prefix that all rows share, in tokens
    #[arg(long, value_parser = flag_values::amount, default_value_t = 0)]
    pub shared: usize,
    /// Rows decoded together
    #[arg(long, value_delimiter = ',', value_parser = flag_values::rows, default_value = "1,8,32,64,128")]
    pub batch_sizes: Vec<usize>,
}

#[derive(Clone, Debug, Serialize)]
pub struct DecodeSpeed {
    pub device: String,
    /// The speed of copying a large array, counting bytes read and written.
    pub copy_tb_per_second: f64,
    pub steps: Vec<StepSpeed>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StepSpeed {
    pub rows: usize,
    pub parts: Vec<PartSpeed>,
    /// The whole step, as the engine runs it.
    pub step: PartSpeed,
    pub tokens_per_second: f64,
}

/// The speed of one part of a step.
#[derive(Clone, Debug, Serialize)]
pub struct PartSpeed {
    pub name: &'static str,
    pub count: usize,
    pub us: f64,
    /// The time to read its bytes at the speed of a copy, in microseconds.
    pub least_us: f64,
}

pub fn decode(bench: &DecodeBench, device: &Device) -> Result<DecodeSpeed> {
    let Device::Gpu(gpu) = device else { bail!("bench decode times a GPU's kernels: add --device cuda") };
    ensure!(bench.shared < bench.context, "--shared must be less than --context");
    let config = GptConfig::from_depth(bench.depth, bench.vocab_size, bench.context.next_multiple_of(PAGE))?;
    let copy_tb_per_second = copy_tb_per_second(device, 0.1);
    let model = JoinedWeights::new(&random_model(config).to_device(device)?);
    let step = |&rows: &usize| DecodeInputs::new(bench, &model, rows, device).timed(gpu, copy_tb_per_second);
    let steps = bench.batch_sizes.iter().map(step).collect();
    Ok(DecodeSpeed { device: device.to_string(), copy_tb_per_second, steps })
}

struct DecodeInputs<'a> {
    model: &'a JoinedWeights,
    device: &'a Device,
    cache: PagedKv,
    step: DecodeStep,
    context: usize,
    shared: usize,
    pages: Vec<Vec<u32>>,
}

impl DecodeInputs<'_> {
    fn new<'a>(
        bench: &DecodeBench,
        model: &'a JoinedWeights,
        rows: usize,
        device: &'a Device,
    ) -> DecodeInputs<'a> {
        let config = &model.config;
        let (all, shared) = (bench.context.div_ceil(PAGE), bench.shared / PAGE);
        let count = shared + rows * (all - shared);
        let cache = PagedKv::new(device, config.n_layer, count, config.n_kv_head, config.head_dim());
        // The pages of a row are scattered, as in a running engine.
        let mut free: Vec<u32> = (0..count as u32).collect();
        Rng::new(&[2]).shuffle(&mut free);
        let first = free.split_off(free.len() - shared);
        let pages =
            (0..rows).map(|_| [first.clone(), free.split_off(free.len() + shared - all)].concat()).collect();
        let step = DecodeStep::new(model, &cache, rows);
        DecodeInputs { model, device, cache, step, context: bench.context, shared: shared * PAGE, pages }
    }

    fn timed(mut self, gpu: &Gpu, copy_tb_per_second: f64) -> StepSpeed {
        let DecodeInputs { model, device, ref cache, context, shared, .. } = self;
        let GptConfig { n_embd: c, n_layer, vocab_size: v, rms_norm_eps: eps, .. } = model.config;
        let (rows, kv_dim) = (self.pages.len(), model.config.kv_dim());
        let row = |pages| DecodeRow { token: 1, position: context - 1, pages };
        let new: Vec<DecodeRow> = self.pages.iter().map(|pages| row(pages)).collect();
        let mut run = || {
            self.step.run(model, cache, &new);
        };
        (0..2).for_each(|_| run());
        let step_us = time(gpu, run);

        let shape = self.step.buffers.rows.set(&new);
        let n = shape.rows;
        let random = |cols: usize| {
            let mut rng = Rng::new(&[3, cols as u64]);
            let values = (0..n * cols).map(|_| rng.normal()).collect();
            Tensor::new(values, &[n, cols]).to_device(device).to_activation()
        };
        let [mut x, mut norm, mut y] = [(); 3].map(|()| random(c));
        let (mut qkv, mut h) = (random(c + 2 * kv_dim), random(4 * c));
        let mut logits = Tensor::zeros_on(device, &[n, v]);
        let mut parts = Vec::new();
        let mut part = |name, count, bytes: usize, work: &mut dyn FnMut()| {
            work();
            let mut graph = device.record(&mut *work);
            graph.launch();
            let us = time(gpu, || graph.launch());
            parts.push(PartSpeed { name, count, us, least_us: bytes as f64 / copy_tb_per_second / 1e6 });
        };
        let layers = &model.weights.layers;
        let seen = shared + rows * (context - shared);
        part("q, k, v", n_layer, 2 * n_layer * c * (c + 2 * kv_dim), &mut || {
            layers.iter().for_each(|w| {
                decode_linear(&mut qkv, &x, &w.qkv[0], n, Some((&mut norm, eps)), Epilogue::Plain)
            });
        });
        part("attention", n_layer, 4 * n_layer * kv_dim * seen, &mut || {
            (0..n_layer).for_each(|i| {
                decode_attention(&mut y, &qkv, cache, i, &model.rotary, &self.step.buffers.rows, shape)
            });
        });
        part("attention's c_proj", n_layer, 2 * n_layer * c * c, &mut || {
            layers.iter().for_each(|w| decode_linear(&mut x, &y, &w.attn_proj, n, None, Epilogue::Add));
        });
        part("c_fc", n_layer, 8 * n_layer * c * c, &mut || {
            layers.iter().for_each(|w| {
                decode_linear(&mut h, &x, &w.c_fc, n, Some((&mut norm, eps)), Epilogue::ReluSquared)
            });
        });
        part("mlp's c_proj", n_layer, 8 * n_layer * c * c, &mut || {
            layers.iter().for_each(|w| decode_linear(&mut x, &h, &w.mlp_proj, n, None, Epilogue::Add));
        });
        part("lm_head", 1, 2 * v * c, &mut || {
            decode_linear(
                &mut logits,
                &x,
                &model.weights.lm_head,
                n,
                Some((&mut norm, eps)),
                Epilogue::Softcap,
            );
        });
        let least_us = parts.iter().map(|part| part.least_us).sum();
        let step = PartSpeed { name: "the step", count: 1, us: step_us, least_us };
        StepSpeed { rows, parts, step, tokens_per_second: 1e6 * rows as f64 / step_us }
    }
}

/// Returns the microseconds of one run of `work`, averaged over many runs queued at once.
fn time(gpu: &Gpu, mut work: impl FnMut()) -> f64 {
    let ms = gpu.time(|| (0..REPLAYS).for_each(|_| work()));
    1e3 * f64::from(ms) / REPLAYS as f64
}
