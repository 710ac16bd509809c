//! Measures every op of a micro-step alone, in a loop, compared with the device's peak and with the whole micro-step.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use nanochat_tensor::{Comm, Device, Grads, Recipe, Rng, RotaryTable, Tape, Tensor};
use serde::Serialize;

use super::{BenchSizes, TrainBench, TrainSpeed, random_batch, train};
use crate::model::batch::Batch;
use crate::model::config::GptConfig;
use crate::model::device_sizes::DeviceSizes;
use crate::terminal::flag_values;

/// The runs queued before waiting for a device that works asynchronously, so that the device never idles.
const QUEUED_ROUND: usize = 8;

#[derive(Clone, Debug, clap::Args)]
pub struct OpsBench {
    #[command(flatten)]
    pub sizes: BenchSizes,
    /// Seconds that each op is looped, forward and backward
    #[arg(long, value_parser = flag_values::positive, default_value_t = 0.5)]
    pub seconds: f64,
}

/// The peak speeds of the device, measured in the same call.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceiling {
    /// The speed of copying a large array, counting bytes read and written.
    pub copy_tb_per_second: f64,
    /// The speed of one large matrix product.
    pub product_tflops: f64,
}

/// One op at the sizes of a model.
#[derive(Clone, Debug, Serialize)]
pub struct OpSpeed {
    pub name: &'static str,
    /// The number of times that a micro-step runs the op.
    pub count: usize,
    pub forward_ms: f64,
    pub backward_ms: f64,
    /// TFLOP/s for a matrix product, TB/s for other ops, with each input read once and each output written once.
    pub forward_rate: f64,
    pub backward_rate: f64,
    pub unit: &'static str,
    /// The higher of both rates, as a share of the peak.
    pub of_ceiling: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct OpsSpeed {
    pub ceiling: Ceiling,
    pub ops: Vec<OpSpeed>,
    /// The sum of all ops of a micro-step at the speeds of their loops.
    pub floor_ms: f64,
    /// The training step of the same model, timed in this call.
    pub train: TrainSpeed,
}

/// Times every op of a micro-step of the model that `bench` describes, and the whole step.
pub fn ops(bench: &OpsBench, device: &Device) -> Result<OpsSpeed> {
    let sizes = &bench.sizes;
    sizes.config()?.within(device.limits())?;
    let total_batch_size = 2 * sizes.micro_tokens();
    let train =
        train(&TrainBench { sizes: sizes.clone(), total_batch_size, steps: 2 }, device, &Comm::alone())?;
    let recipe = sizes.precision.recipe(device);
    let ceiling = ceiling(device, recipe, bench.seconds);
    let ops = OpInputs::new(sizes.config()?, [sizes.device_batch_size, sizes.max_seq_len], device, recipe);
    let ops = ops.timed(bench.seconds, ceiling);
    let floor_ms = ops.iter().map(|op| op.count as f64 * (op.forward_ms + op.backward_ms)).sum();
    Ok(OpsSpeed { ceiling, ops, floor_ms, train })
}

fn ceiling(device: &Device, recipe: Recipe, seconds: f64) -> Ceiling {
    let side = DeviceSizes::of(device).large_product;
    let [x, w] = [1.0, 0.01].map(|std| random(&[side, side], std, device));
    let x = x.to_activation();
    let copy_tb_per_second = copy_tb_per_second(device, seconds);
    let product_ms = looped(device, seconds, || drop(Tape::computing(recipe).linear(&x, &w)));
    Ceiling { copy_tb_per_second, product_tflops: 2.0 * (side as f64).powi(3) / product_ms / 1e9 }
}

/// Returns the speed of a large copy, counting bytes read and written.
pub(super) fn copy_tb_per_second(device: &Device, seconds: f64) -> f64 {
    let (values, own_memory) = (DeviceSizes::of(device).large_array, device.properties().own_memory);
    let source = random(&[1, values], 1.0, device);
    let mut there = vec![0.0; if own_memory { 0 } else { values }];
    let copy_ms = looped(device, seconds, || {
        if own_memory {
            drop(source.gather_rows(&[0]));
        } else {
            there.copy_from_slice(source.data());
        }
    });
    2.0 * 4.0 * values as f64 / copy_ms / 1e9
}

/// Returns normal values that repeat after a million: generating hundreds of millions would take longer than the
/// benchmark.
fn random(shape: &[usize], std: f32, device: &Device) -> Tensor {
    let mut rng = Rng::new(&[shape.len() as u64, shape[0] as u64]);
    let some: Vec<f32> = (0..1 << 20).map(|_| std * rng.normal()).collect();
    let values = some.iter().cycle().take(shape.iter().product()).copied().collect();
    Tensor::new(values, shape).to_device(device)
}

/// Returns the milliseconds of one run of `work`, averaged over at least `seconds`.
fn looped(device: &Device, seconds: f64, mut work: impl FnMut()) -> f64 {
    let round = if device.properties().queues_work { QUEUED_ROUND } else { 1 };
    work();
    device.synchronize();
    let (started, mut runs) = (Instant::now(), 0);
    while runs < 3 || started.elapsed().as_secs_f64() < seconds {
        (0..round).for_each(|_| work());
        device.synchronize();
        runs += round;
    }
    1e3 * started.elapsed().as_secs_f64() / runs as f64
}

/// The inputs of a micro-step's ops. C = n_embd, V = vocab_size.
struct OpInputs {
    config: GptConfig,
    device: Device,
    recipe: Recipe,
    batch: Batch,
    x: Tensor,          // (B·T, C)
    residual: Tensor,   // (B·T, C)
    heads: [Tensor; 3], // (B, T, H, D)
    wte: Tensor,        // (V, C)
    lm_head: Tensor,    // (V, C)
    square: Tensor,     // (C, C)
    c_fc: Tensor,       // (4C, C)
    c_proj: Tensor,     // (C, 4C)
}

impl OpInputs {
    fn new(config: GptConfig, [b, t]: [usize; 2], device: &Device, recipe: Recipe) -> OpInputs {
        let GptConfig { n_embd: c, n_head: h, vocab_size: v, .. } = config;
        let random = |shape: &[usize], std| random(shape, std, device);
        let activation = |shape: &[usize]| random(shape, 1.0).to_activation();
        OpInputs {
            config,
            device: device.clone(),
            recipe,
            batch: random_batch(v, [b, t]),
            x: activation(&[b * t, c]),
            residual: activation(&[b * t, c]),
            heads: [(); 3].map(|()| activation(&[b, t, h, config.head_dim()])),
            wte: random(&[v, c], 1.0),
            lm_head: random(&[v, c], 0.02),
            square: random(&[c, c], 0.03),
            c_fc: random(&[4 * c, c], 0.03),
            c_proj: random(&[c, 4 * c], 0.03),
        }
    }

    fn timed(&self, seconds: f64, ceiling: Ceiling) -> Vec<OpSpeed> {
        let OpInputs { config, device, recipe, batch, x, residual, heads, .. } = self;
        let GptConfig { n_embd: c, n_head: h, vocab_size: v, n_layer, rms_norm_eps: eps, .. } = *config;
        let ([b, t], d) = (batch.shape, config.head_dim());
        let n = b * t;
        let (table, positions) =
            (RotaryTable::new(t, d, config.rope_theta), (0..n).map(|n| n % t).collect::<Arc<[usize]>>());

        let width = device.properties().activations.bytes() as f64;
        let time = |name, count, unit, [forward, backward]: [f64; 2], f: &dyn Fn(&Tape) -> Tensor| {
            let [forward_ms, backward_ms] = time_op(device, *recipe, seconds, f);
            let rate = |work: f64, ms: f64| if work > 0.0 { work / ms / 1e9 } else { 0.0 };
            let rates = [rate(forward, forward_ms), rate(backward, backward_ms)];
            let [forward_rate, backward_rate] = rates;
            let best = if unit == TB { ceiling.copy_tb_per_second } else { ceiling.product_tflops };
            let of_ceiling = forward_rate.max(backward_rate) / best;
            OpSpeed { name, count, forward_ms, backward_ms, forward_rate, backward_rate, unit, of_ceiling }
        };
        // Ops that only read and write arrays of B·T·C values.
        let moves = |name, count, [forward, backward]: [f64; 2], f: &dyn Fn(&Tape) -> Tensor| {
            time(name, count, TB, [forward, backward].map(|arrays| width * arrays * (n * c) as f64), f)
        };
        let product = |name, count, inp: usize, out: usize, f: &dyn Fn(&Tape) -> Tensor| {
            let flops = 2.0 * (n * inp * out) as f64;
            time(name, count, TFLOP, [flops, 2.0 * flops], f)
        };
        let scores = 2.0 * (b * h * t * t * d) as f64;
        let loss_flops = [6.0 * (n * c * v) as f64, 0.0];
        vec![
            moves("embedding", 1, [3.0, 3.0], &|tape| tape.embedding(&batch.inputs, &self.wte)),
            moves("rms_norm", 2 * n_layer + 2, [2.0, 3.0], &|tape| tape.rms_norm(x, eps)),
            moves("rotary_qk_norm", 2 * n_layer, [2.0, 3.0], &|tape| {
                tape.rotary_qk_norm(&heads[0], &table, &positions, eps)
            }),
            time("attention", n_layer, TFLOP, [scores, 2.5 * scores], &|tape| {
                tape.attention(&heads[0], &heads[1], &heads[2], None)
            }),
            product("linear C to C", 3 * n_layer, c, c, &|tape| tape.linear(x, &self.square)),
            product("linear_add C to C", n_layer, c, c, &|tape| tape.linear_add(residual, x, &self.square)),
            product("mlp", n_layer, c, 8 * c, &|tape| tape.mlp(residual, x, &self.c_fc, &self.c_proj)),
            // The loss computes its gradients in the forward pass, so forward has all three products.
            time("loss with gradients", 1, TFLOP, loss_flops, &|tape| {
                tape.linear_softcap_cross_entropy(x, &self.lm_head, &batch.targets, &batch.weights).0
            }),
        ]
    }
}

const TB: &str = "TB/s";
const TFLOP: &str = "TFLOP/s";

/// Milliseconds of one forward pass that records, and of its backward.
fn time_op(device: &Device, recipe: Recipe, seconds: f64, f: &dyn Fn(&Tape) -> Tensor) -> [f64; 2] {
    let unrelated = Tensor::zeros(&[1]); // backward wants a scalar to start at
    let forward = looped(device, seconds / 2.0, || drop(f(&Tape::computing(recipe))));
    let both = looped(device, seconds / 2.0, || {
        let (tape, mut grads) = (Tape::computing(recipe), Grads::default());
        let y = f(&tape);
        let is_loss = y.len() == 1;
        if !is_loss {
            grads.add(&y, y.clone());
        }
        tape.backward(if is_loss { &y } else { &unrelated }, 1.0, &mut grads);
    });
    [forward, (both - forward).max(0.0)]
}
