//! Measures how fast a model trains: a training step on random tokens, and each of its ops alone.

mod decode;
pub mod infer;
mod ops;
pub mod rl;
pub mod tok;

use std::time::Instant;

use anyhow::{Result, bail};
use nanochat_tensor::profile::{self, Kind, part};
use nanochat_tensor::{Comm, Device, Grads, Rng, Tape};
use serde::Serialize;

use crate::model::batch::Batch;
use crate::model::config::{GptConfig, Precision, Recompute};
use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Gpt;
use crate::model::gpt::Rates;
use crate::model::optim::{Optimizer, ScheduleValues};
use crate::plan::Memory;
use crate::ranks;
use crate::report::profile::communication_ms;
use crate::terminal::flag_values;
use crate::train::stages::fit;

pub use decode::{DecodeBench, DecodeSpeed, PartSpeed, decode};
pub use ops::{Ceiling, OpSpeed, OpsBench, OpsSpeed, ops};

const GIB: f64 = (1u64 << 30) as f64;

/// The sizes of the model and of the micro-batch to time.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchSizes {
    /// Layers; the width is 64 times this number
    #[arg(long, value_parser = flag_values::amount, default_value_t = 4)]
    pub depth: usize,
    /// Rows in one forward pass
    #[arg(long, value_parser = flag_values::count, default_value_t = 8)]
    pub device_batch_size: usize,
    /// Tokens in a row
    #[arg(long, alias = "sequence-len", value_parser = flag_values::amount, default_value_t = 2048)]
    pub max_seq_len: usize,
    /// Size of the vocabulary
    #[arg(long, value_parser = flag_values::amount, default_value_t = 65_536)]
    pub vocab_size: usize,
    /// Values that the backward pass recomputes instead of keeping them in memory
    #[arg(long, value_enum, default_value_t)]
    pub recompute: Recompute,
    /// Precision that the matrix products of training round to on the CPU (a GPU trains in bf16)
    #[arg(long, value_enum, default_value_t)]
    pub precision: Precision,
    /// Peak speed of the device, in TFLOP/s [default: looked up by the GPU's name]
    #[arg(long, value_parser = flag_values::positive)]
    pub peak_tflops: Option<f64>,
}

/// The training step to time.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainBench {
    #[command(flatten)]
    pub sizes: BenchSizes,
    /// Tokens in one optimizer step
    #[arg(long, value_parser = flag_values::amount, default_value_t = DeviceSizes::GPU.step_tokens)]
    pub total_batch_size: usize,
    /// Timed steps, after two short ones that are not timed
    #[arg(long, value_parser = flag_values::count, default_value_t = 2)]
    pub steps: usize,
}

/// The measured speed of training.
#[derive(Clone, Debug, Serialize)]
pub struct TrainSpeed {
    pub device: String,
    pub depth: usize,
    pub parameters: usize,
    pub device_batch_size: usize,
    pub recompute: Recompute,
    pub precision: Precision,
    pub tokens_per_second: f64,
    /// The share of the peak FLOP/s; None if the peak is unknown. Recomputed work does not count.
    pub mfu: Option<f64>,
    pub micro_step_ms: f64,
    pub optimizer_ms: f64,
    /// The time of all kernels and copies of one further step, each measured by itself, as a share of a timed step's
    /// time; the GPU idled for the rest. None where kernels are not timed, as on the CPU.
    pub gpu_busy: Option<f64>,
    /// The comparison of all ranks with single ones; None for one rank.
    pub ranks: Option<RanksSpeed>,
    pub peak_memory_gib: Option<f64>,
    /// The memory that `nanochat plan` predicts for this run.
    pub planned_memory_gib: f64,
    /// The loss of the last micro-batch, to verify that the measured step computes correctly.
    pub loss: f32,
}

/// The measured speed of several ranks.
#[derive(Clone, Debug, Serialize)]
pub struct RanksSpeed {
    pub count: usize,
    /// Tokens per second of one rank that runs the same step without communication, measured on all ranks at once.
    pub alone_tokens_per_second: f64,
    /// The speedup over that single rank, and its share of a perfect speedup.
    pub times: f64,
    pub efficiency: f64,
    /// Milliseconds of a step spent in collectives of gradients and weights; None on the CPU, where they do not overlap
    /// with computing.
    pub collectives_ms: Option<f64>,
    /// The part of these in which computing waited, in milliseconds, and its share of the step.
    pub exposed_ms: Option<f64>,
    pub exposed: Option<f64>,
}

impl BenchSizes {
    fn config(&self) -> Result<GptConfig> {
        Ok(GptConfig::from_depth(self.depth, self.vocab_size, self.max_seq_len)?)
    }

    fn micro_tokens(&self) -> usize {
        self.device_batch_size * self.max_seq_len
    }
}

/// Times training: first all ranks together, then each rank alone.
pub fn train(bench: &TrainBench, device: &Device, comm: &Comm) -> Result<TrainSpeed> {
    let (mut speed, communication_ms) = train_in(bench, device, comm)?;
    if comm.world_size() > 1 || communication_ms.is_some() {
        let alone = train_in(bench, device, &Comm::alone())?.0.tokens_per_second;
        let (times, step_ms) =
            (speed.tokens_per_second / alone, 1e3 * bench.total_batch_size as f64 / speed.tokens_per_second);
        speed.ranks = Some(RanksSpeed {
            count: comm.world_size(),
            alone_tokens_per_second: alone,
            times,
            efficiency: times / comm.world_size() as f64,
            collectives_ms: communication_ms.map(|[collectives, _]| collectives),
            exposed_ms: communication_ms.map(|[_, exposed]| exposed),
            exposed: communication_ms.map(|[_, exposed]| exposed / step_ms),
        });
    }
    Ok(speed)
}

/// Returns the speed of these ranks, and the `communication_ms` of a step.
fn train_in(bench: &TrainBench, device: &Device, comm: &Comm) -> Result<(TrainSpeed, Option<[f64; 2]>)> {
    let sizes = &bench.sizes;
    let (config, micro_tokens) = (sizes.config()?, sizes.micro_tokens());
    if micro_tokens == 0 || !bench.total_batch_size.is_multiple_of(micro_tokens) || bench.steps == 0 {
        bail!("--total-batch-size {} must be a multiple of {micro_tokens}", bench.total_batch_size);
    }
    fit::check(&config, sizes.device_batch_size, sizes.recompute, device, comm.world_size())?;
    // Each rank does its share of a step's micro-batches, all of them alike.
    let grad_accum_steps = bench.total_batch_size / micro_tokens;
    let micro_steps = ranks::mine(comm, grad_accum_steps).count();
    let scale = 1.0 / bench.total_batch_size as f32;
    let mut model = Gpt::init(config, 42).to_device(device)?;
    model.recompute = sizes.recompute;
    model.recipe = sizes.precision.recipe(device);
    let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(&model, rates, 1.0, comm);
    let batch = random_batch(config.vocab_size, [sizes.device_batch_size, sizes.max_seq_len]);
    // The head and the projections of a fresh model are zero, and zeros multiply faster than real values.
    for _ in 0..2 {
        step(&mut model, &mut optimizer, &batch, 2.min(micro_steps), scale, device);
    }
    let (mut micro, mut update, mut loss) = (0.0, 0.0, 0.0);
    for _ in 0..bench.steps {
        let times = step(&mut model, &mut optimizer, &batch, micro_steps, scale, device);
        micro += times.0;
        update += times.1;
        loss = times.2;
    }
    let peak_memory_gib = device.memory().map(|(peak, _)| peak as f64 / GIB);
    let steps = bench.steps as f64;
    let step_seconds = (micro + update) / steps;
    let recorded = device.properties().times_kernels.then(|| {
        profile::start(device.clock());
        step(&mut model, &mut optimizer, &batch, micro_steps, scale, device);
        profile::finish()
    });
    let gpu_busy = recorded.as_ref().map(|spans| {
        let kernels = spans.iter().filter(|span| span.kind == Kind::Kernel);
        1e-6 * kernels.map(|span| span.duration_us).sum::<f64>() / step_seconds
    });
    let tokens_per_second = bench.total_batch_size as f64 / step_seconds;
    let peak = sizes.peak_tflops.or_else(|| peak_tflops(&device.to_string()));
    let memory = if device.properties().own_memory { Memory::gpu } else { Memory::cpu };
    let speed = TrainSpeed {
        device: device.to_string(),
        depth: sizes.depth,
        parameters: config.params(),
        device_batch_size: sizes.device_batch_size,
        recompute: sizes.recompute,
        precision: if device.properties().only_recipe.is_some() {
            Precision::Bf16
        } else {
            sizes.precision.chosen()
        },
        tokens_per_second,
        mfu: peak.map(|peak| {
            config.flops_per_token() * tokens_per_second / (peak * 1e12 * comm.world_size() as f64)
        }),
        micro_step_ms: 1e3 * micro / steps / micro_steps.max(1) as f64,
        optimizer_ms: 1e3 * update / steps,
        gpu_busy,
        ranks: None,
        peak_memory_gib,
        planned_memory_gib: memory(&config, sizes.device_batch_size, comm.world_size(), sizes.recompute)
            .total()
            / GIB,
        loss,
    };
    Ok((speed, recorded.as_deref().and_then(communication_ms)))
}

/// Runs one step and returns the seconds of the micro-steps, those of the optimizer, and the last loss.
fn step(
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    batch: &Batch,
    micro_steps: usize,
    scale: f32,
    device: &Device,
) -> (f64, f64, f32) {
    let started = Instant::now();
    let (mut grads, mut loss) = (Grads::default(), None);
    for i in 0..micro_steps {
        let tape = Tape::computing(model.recipe);
        let (loss_sum, _) = part("forward", || model.loss_sum(&tape, batch));
        if i + 1 == micro_steps {
            grads.reduce_into(optimizer.reduction(model));
        }
        part("backward", || tape.backward(&loss_sum, scale, &mut grads));
        loss = Some(loss_sum);
    }
    device.synchronize();
    let micro = started.elapsed().as_secs_f64();
    let scheduled = ScheduleValues { lr_multiplier: 1.0, muon_momentum: 0.95 };
    part("optimizer", || optimizer.step(model, &mut grads, scheduled));
    device.synchronize();
    let update = started.elapsed().as_secs_f64() - micro;
    (micro, update, loss.map_or(0.0, |loss| loss.item() / batch.inputs.len() as f32))
}

fn random_batch(vocab_size: usize, shape: [usize; 2]) -> Batch {
    let mut rng = Rng::new(&[7]);
    let mut tokens = || (0..shape[0] * shape[1]).map(|_| rng.below(vocab_size) as u32).collect::<Vec<u32>>();
    let (inputs, targets) = (tokens(), tokens());
    Batch { weights: vec![1.0; inputs.len()], inputs, targets, shape }
}

/// Returns the dense bf16 TFLOP/s of a GPU according to its data sheet.
fn peak_tflops(name: &str) -> Option<f64> {
    let table = [
        ("H200", 989.0),
        ("GH200", 989.0),
        ("H100 PCIe", 756.0),
        ("H100", 989.0),
        ("H800", 989.0),
        ("H20", 148.0),
        ("B200", 2_250.0),
        ("A100", 312.0),
        ("A800", 312.0),
        ("L40S", 362.0),
        ("RTX 4090", 165.0),
        ("RTX 3090", 71.0),
        ("RTX 5090", 209.5),
    ];
    table.iter().find(|(card, _)| name.contains(card)).map(|(_, peak)| *peak)
}
