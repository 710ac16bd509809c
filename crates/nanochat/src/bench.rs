//! How fast a model trains: the step of training on random tokens, timed; and each of its ops alone.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use nanochat_tensor::{Device, Grads, Rng, RotaryTable, Tape, Tensor};
use serde::Serialize;

use crate::batch::Batch;
use crate::config::GptConfig;
use crate::gpt::Gpt;
use crate::optim::{Moment, Optimizer, Rates};

/// What is timed.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainBench {
    /// Layers; width is 64 times as much
    #[arg(long, default_value_t = 4)]
    pub depth: usize,
    /// Rows in one forward pass
    #[arg(long, default_value_t = 8)]
    pub device_batch_size: usize,
    /// Tokens in a row
    #[arg(long, default_value_t = 2048)]
    pub max_seq_len: usize,
    /// Size of the vocabulary
    #[arg(long, default_value_t = 65_536)]
    pub vocab_size: usize,
    /// Tokens in one optimizer step
    #[arg(long, default_value_t = 524_288)]
    pub total_batch_size: usize,
    /// Steps that are timed, after two short ones that are not
    #[arg(long, default_value_t = 2)]
    pub steps: usize,
    /// What the device can do at its best, in TFLOP/s [default: a GPU's by its name]
    #[arg(long)]
    pub peak_tflops: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct TrainSpeed {
    pub device: String,
    pub depth: usize,
    pub parameters: usize,
    pub tokens_per_second: f64,
    /// Share of the peak FLOP/s; None where the peak is not known.
    pub mfu: Option<f64>,
    pub micro_step_ms: f64,
    pub optimizer_ms: f64,
    pub peak_memory_gib: Option<f64>,
    /// Loss of the last micro-batch: a speed without a number that is right is worth nothing.
    pub loss: f32,
}

pub fn train(bench: &TrainBench, device: &Device) -> Result<TrainSpeed> {
    let config = GptConfig::from_depth(bench.depth, bench.vocab_size, bench.max_seq_len)?;
    let micro_tokens = bench.device_batch_size * bench.max_seq_len;
    if micro_tokens == 0 || !bench.total_batch_size.is_multiple_of(micro_tokens) || bench.steps == 0 {
        bail!("--total-batch-size {} must be a multiple of {micro_tokens}", bench.total_batch_size);
    }
    let grad_accum_steps = bench.total_batch_size / micro_tokens;
    let mut model = Gpt::init(config, 42).to_device(device);
    let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(&model, rates, 1.0);
    let batch = random_batch(config.vocab_size, [bench.device_batch_size, bench.max_seq_len]);
    // A fresh model's head and projections are zero, and zeros multiply faster than real values.
    for _ in 0..2 {
        step(&mut model, &mut optimizer, &batch, 2.min(grad_accum_steps), device);
    }
    let (mut micro, mut update, mut loss) = (0.0, 0.0, 0.0);
    for _ in 0..bench.steps {
        let times = step(&mut model, &mut optimizer, &batch, grad_accum_steps, device);
        micro += times.0;
        update += times.1;
        loss = times.2;
    }
    let steps = bench.steps as f64;
    let tokens_per_second = steps * bench.total_batch_size as f64 / (micro + update);
    let peak = bench.peak_tflops.or_else(|| peak_tflops(&device.to_string()));
    Ok(TrainSpeed {
        device: device.to_string(),
        depth: bench.depth,
        parameters: config.params(),
        tokens_per_second,
        mfu: peak.map(|peak| config.flops_per_token() * tokens_per_second / (peak * 1e12)),
        micro_step_ms: 1e3 * micro / steps / grad_accum_steps as f64,
        optimizer_ms: 1e3 * update / steps,
        peak_memory_gib: device.memory().map(|(peak, _)| peak as f64 / (1u64 << 30) as f64),
        loss,
    })
}

/// Seconds of the micro-steps and of the optimizer, and the last loss.
fn step(
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    batch: &Batch,
    grad_accum_steps: usize,
    device: &Device,
) -> (f64, f64, f32) {
    let started = Instant::now();
    let tokens = batch.inputs.len() as f32;
    let (mut grads, mut loss) = (Grads::default(), None);
    for _ in 0..grad_accum_steps {
        let tape = Tape::new();
        let (loss_sum, _) = model.loss_sum(&tape, batch);
        tape.backward(&loss_sum, 1.0 / (tokens * grad_accum_steps as f32), &mut grads);
        loss = Some(loss_sum);
    }
    device.synchronize();
    let micro = started.elapsed().as_secs_f64();
    optimizer.step(model, &mut grads, Moment { lr_multiplier: 1.0, muon_momentum: 0.95 });
    device.synchronize();
    let update = started.elapsed().as_secs_f64() - micro;
    (micro, update, loss.map_or(0.0, |loss| loss.item() / tokens))
}

fn random_batch(vocab_size: usize, shape: [usize; 2]) -> Batch {
    let mut rng = Rng::new(&[7]);
    let mut tokens = || (0..shape[0] * shape[1]).map(|_| rng.below(vocab_size) as u32).collect::<Vec<u32>>();
    let (inputs, targets) = (tokens(), tokens());
    Batch { weights: vec![1.0; inputs.len()], inputs, targets, shape }
}

/// One op at the sizes of a model.
#[derive(Clone, Debug, Serialize)]
pub struct OpSpeed {
    pub name: &'static str,
    pub forward_ms: f64,
    pub backward_ms: f64,
    /// TFLOP/s of a product, TB/s of all else: each input read once, each output written once.
    pub forward_rate: f64,
    pub backward_rate: f64,
    pub unit: &'static str,
}

/// Times every op of a micro-step of the model that `bench` names.
pub fn ops(bench: &TrainBench, device: &Device) -> Result<Vec<OpSpeed>> {
    let config = GptConfig::from_depth(bench.depth, bench.vocab_size, bench.max_seq_len)?;
    let ([b, t], c, v) = ([bench.device_batch_size, bench.max_seq_len], config.n_embd, config.vocab_size);
    let (n, h, d) = (b * t, config.n_head, config.head_dim());
    let mut stream = 0;
    let mut random = |shape: &[usize], std: f32| {
        stream += 1;
        let mut rng = Rng::new(&[stream]);
        // Repeated after a million: drawing hundreds of millions would take longer than the test.
        let some: Vec<f32> = (0..1 << 20).map(|_| std * rng.normal()).collect();
        let values = some.iter().cycle().take(shape.iter().product()).copied().collect();
        Tensor::new(values, shape).to_device(device)
    };
    let batch = random_batch(v, [b, t]);
    let (x, residual) = (random(&[n, c], 1.0).to_activation(), random(&[n, c], 1.0).to_activation());
    let wide = random(&[n, 4 * c], 1.0).to_activation();
    let heads = [(); 3].map(|()| random(&[b, t, h, d], 1.0).to_activation());
    let (wte, head) = (random(&[v, c], 1.0), random(&[v, c], 0.02));
    let [square, fc, proj] = [[c, c], [4 * c, c], [c, 4 * c]].map(|shape| random(&shape, 0.03));
    let (table, positions) =
        (RotaryTable::new(t, d, 10_000.0), (0..n).map(|n| n % t).collect::<Arc<[usize]>>());

    let width = if let Device::Cpu = device { 4.0 } else { 2.0 };
    let bytes = |values: f64| width * values * (n * c) as f64;
    let product = |inp: usize, out: usize| 2.0 * (n * inp * out) as f64;
    let scores = 2.0 * (b * h * t * t * d) as f64;
    let time = |name, unit, [forward, backward]: [f64; 2], f: &dyn Fn(&Tape) -> Tensor| {
        let (forward_ms, backward_ms) = time_op(device, f);
        let rate = |work: f64, ms: f64| work / ms / 1e9;
        let (forward_rate, backward_rate) = (rate(forward, forward_ms), rate(backward, backward_ms));
        OpSpeed { name, forward_ms, backward_ms, forward_rate, backward_rate, unit }
    };
    let twice = |flops: f64| [flops, 2.0 * flops];
    let attention = |tape: &Tape| tape.attention(&heads[0], &heads[1], &heads[2], None);
    let loss = |tape: &Tape| tape.linear_softcap_cross_entropy(&x, &head, &batch.targets, &batch.weights).0;
    Ok(vec![
        time("embedding", "TB/s", [bytes(3.0), bytes(3.0)], &|tape| tape.embedding(&batch.inputs, &wte)),
        time("rms_norm", "TB/s", [bytes(2.0), bytes(3.0)], &|tape| tape.rms_norm(&x)),
        time("rotary_qk_norm", "TB/s", [bytes(2.0), bytes(3.0)], &|tape| {
            tape.rotary_qk_norm(&heads[0], &table, &positions)
        }),
        time("attention", "TFLOP/s", [scores, 2.5 * scores], &attention),
        time("linear C to C", "TFLOP/s", twice(product(c, c)), &|tape| tape.linear(&x, &square)),
        time("linear_add C to C", "TFLOP/s", twice(product(c, c)), &|tape| {
            tape.linear_add(&residual, &x, &square)
        }),
        time("linear C to 4C", "TFLOP/s", twice(product(c, 4 * c)), &|tape| tape.linear(&x, &fc)),
        time("relu_squared_linear_add 4C to C", "TFLOP/s", twice(product(c, 4 * c)), &|tape| {
            tape.relu_squared_linear_add(&residual, &wide, &proj)
        }),
        // Its gradients are computed along with the loss: forward has all three products.
        time("loss with gradients", "TFLOP/s", [3.0 * product(c, v), 0.0], &loss),
    ])
}

/// Milliseconds of one forward pass that records, and of its backward.
fn time_op(device: &Device, f: &dyn Fn(&Tape) -> Tensor) -> (f64, f64) {
    const RUNS: usize = 5;
    let (mut forward, mut backward) = (0.0, 0.0);
    for run in 0..=RUNS {
        let (tape, mut grads) = (Tape::new(), Grads::default());
        device.synchronize();
        let started = Instant::now();
        let y = f(&tape);
        device.synchronize();
        let middle = started.elapsed().as_secs_f64();
        let seed = if y.len() == 1 {
            y
        } else {
            grads.add(&y, y.clone());
            Tensor::zeros(&[1])
        };
        tape.backward(&seed, 1.0, &mut grads);
        device.synchronize();
        if run > 0 {
            forward += middle;
            backward += started.elapsed().as_secs_f64() - middle;
        }
    }
    (1e3 * forward / RUNS as f64, 1e3 * backward / RUNS as f64)
}

/// Dense bf16 TFLOP/s of a card, by its data sheet.
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
