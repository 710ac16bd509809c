//! Measures how fast the engine answers, compared with the limit of memory bandwidth.
//!
//! A decode step reads every weight and the keys and values of every row once. Its minimum in bytes is weights + rows ·
//! context · (cache bytes per token); samples of one prompt read the prompt's part only once. On a GPU the limit is the
//! speed of a large copy.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nanochat_tensor::simd::{self, CHUNK, vectorized};
use nanochat_tensor::{Device, Dtype, Rng, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use super::ops::copy_tb_per_second;
use crate::engine::sampler::SampleOptions;
use crate::engine::{Engine, EngineOptions, Event, Request};
use crate::model::config::GptConfig;
use crate::model::gpt::{Gpt, WeightRole};
use crate::terminal::flag_values;

/// The model and requests to time.
#[derive(Clone, Debug, clap::Args)]
pub struct InferBench {
    /// Layers; the width is 64 times this number
    #[arg(long, value_parser = flag_values::amount, default_value_t = 12)]
    pub depth: usize,
    /// Size of the vocabulary
    #[arg(long, value_parser = flag_values::amount, default_value_t = 65_536)]
    pub vocab_size: usize,
    /// Tokens in a prompt
    #[arg(long, value_parser = flag_values::count, default_value_t = 1_024)]
    pub prompt_tokens: usize,
    /// Tokens decoded for every row
    #[arg(long, value_parser = flag_values::count, default_value_t = 64)]
    pub decode_tokens: usize,
    /// Rows decoded together
    #[arg(long, value_delimiter = ',', value_parser = flag_values::rows, default_value = "1,8,32")]
    pub batch_sizes: Vec<usize>,
    /// Weights on the CPU: f32, bf16 or int8
    #[arg(long, default_value_t = Dtype::Bf16)]
    pub weights: Dtype,
    /// Seed of the random prompts
    #[arg(long, value_parser = flag_values::seed, default_value_t = 9)]
    pub seed: u64,
    /// Complete answers to time, prompts included, comparable to `bench serve` with as many clients as rows (0: none)
    #[arg(long, value_parser = flag_values::whole::<usize, 0, 1_000_000>, default_value_t = 0)]
    pub requests: usize,
}

/// The measured speed of inference.
#[derive(Clone, Debug, Serialize)]
pub struct InferSpeed {
    pub device: String,
    pub depth: usize,
    pub weights: String,
    pub prompt_tokens: usize,
    /// The bytes of weights that a step reads.
    pub weight_bytes: usize,
    /// The measured memory bandwidth.
    pub read_gb_per_second: f64,
    pub batches: Vec<BatchSpeed>,
    pub whole: Vec<WholeSpeed>,
}

/// The speed of complete answers to distinct prompts, in an engine configured as in a server; the baseline for HTTP.
#[derive(Clone, Debug, Serialize)]
pub struct WholeSpeed {
    pub rows: usize,
    pub requests: usize,
    pub tokens_per_second: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct BatchSpeed {
    pub rows: usize,
    /// Whether the rows are samples of one prompt.
    pub one_prompt: bool,
    /// Milliseconds from the request to the first token, averaged over all rows.
    pub first_token_ms: f64,
    /// Milliseconds of a step, and so between two tokens of a row.
    pub step_ms: f64,
    /// Milliseconds of that spent in the engine's scheduler, while the device waits.
    pub schedule_ms: f64,
    pub tokens_per_second: f64,
    /// Tokens per second as a share of the limit of memory bandwidth.
    pub share_of_limit: f64,
}

pub fn infer(bench: &InferBench, device: &Device) -> Result<InferSpeed> {
    let context = bench.prompt_tokens + bench.decode_tokens;
    ensure!(bench.prompt_tokens > 0, "--prompt-tokens must be at least 1");
    ensure!(bench.decode_tokens > 1, "--decode-tokens must be at least 2");
    ensure!(bench.batch_sizes.iter().all(|rows| *rows > 0), "--batch-sizes must be at least 1");
    let config = GptConfig::from_depth(bench.depth, bench.vocab_size, context.next_multiple_of(64))?;
    let model = random_model(config).to_device(device)?;
    let read_gb_per_second =
        if device.properties().own_memory { 1e3 * copy_tb_per_second(device, 0.5) } else { read_bandwidth() };
    let mut speed = InferSpeed {
        device: device.to_string(),
        depth: bench.depth,
        weights: if device.properties().only_recipe.is_some() {
            "bf16".into()
        } else {
            bench.weights.to_string()
        },
        prompt_tokens: bench.prompt_tokens,
        weight_bytes: weight_bytes(&model, bench.weights),
        read_gb_per_second,
        batches: Vec::new(),
        whole: Vec::new(),
    };
    for &rows in &bench.batch_sizes {
        for one_prompt in [false, true] {
            if rows > 1 || !one_prompt {
                let batch = batch(bench, &model, rows, one_prompt, &speed);
                speed.batches.push(batch);
            }
        }
    }
    if bench.requests > 0 {
        speed.whole = bench.batch_sizes.iter().map(|&rows| whole(bench, &model, rows)).collect();
    }
    Ok(speed)
}

fn whole(bench: &InferBench, model: &Gpt, rows: usize) -> WholeSpeed {
    let for_batch = EngineOptions::for_batch(&model.device(), rows);
    let options = EngineOptions { weights: bench.weights, ..for_batch };
    let mut engine = Engine::with_options(model, None, options);
    let mut answer = |requests: Vec<Request>| {
        let (before, started) = (engine.stats().generated_tokens, Instant::now());
        for request in requests {
            let options = SampleOptions { top_k: 50, ..request.options };
            engine.submit(Request { options, ..request }).expect("a prompt that fits");
        }
        while !engine.is_idle() {
            engine.step();
        }
        (engine.stats().generated_tokens - before) as f64 / started.elapsed().as_secs_f64()
    };
    if model.device().properties().tunes_to_shapes {
        answer(requests(&InferBench { seed: bench.seed + 1, ..bench.clone() }, rows, false)); // warm-up: compiles the kernels
    }
    let tokens_per_second = answer(requests(bench, bench.requests, false));
    WholeSpeed { rows, requests: bench.requests, tokens_per_second }
}

/// Times the prompts, then decoding alone, for which the prompts are submitted again and found in the prefix cache.
fn batch(bench: &InferBench, model: &Gpt, rows: usize, one_prompt: bool, speed: &InferSpeed) -> BatchSpeed {
    let (config, device) = (&model.config, model.device());
    let token_bytes = 2 * config.n_layer * config.kv_dim() * device.properties().activations.bytes();
    let for_batch = EngineOptions::for_batch(&device, rows);
    let options = EngineOptions {
        weights: bench.weights,
        max_rows: rows,
        prompt_tokens: for_batch.prompt_tokens.max(2_048),
        cache_bytes: (rows + 1) * (config.sequence_len + 64) * token_bytes,
        ..for_batch
    };
    let mut engine = Engine::with_options(model, None, options);
    let requests = requests(bench, rows, one_prompt);
    // Warms up: all kernels are compiled and the matrix products choose their algorithms before anything is timed.
    if device.properties().tunes_to_shapes {
        // Long enough that the first rows still decode when the last prompt is computed, so that a graph is recorded
        // for all rows.
        let decode_tokens = 3 + (rows * bench.prompt_tokens).div_ceil(options.prompt_tokens);
        let decode_tokens = decode_tokens.min(bench.decode_tokens);
        let others =
            self::requests(&InferBench { seed: 10, decode_tokens, ..bench.clone() }, rows, one_prompt);
        others.into_iter().for_each(|request| _ = engine.submit(request).expect("a prompt that fits"));
        while !engine.is_idle() {
            engine.step();
        }
    }
    let first_token_ms = first_tokens(&mut engine, &requests, rows);
    for request in requests {
        engine.submit(request).expect("a prompt that fits");
    }
    let (mut steps, mut took, mut computing) = (0, Duration::ZERO, Duration::ZERO);
    while !engine.is_idle() {
        let (before, started) = (engine.stats(), Instant::now());
        engine.step();
        let (stats, step) = (engine.stats(), started.elapsed());
        let decoded = stats.generated_tokens - before.generated_tokens;
        // Counts only steps in which every row decodes one token and no prompt is computed.
        if decoded == rows as u64 && stats.computed_tokens - before.computed_tokens == decoded {
            steps += 1;
            took += step;
            computing += stats.computing - before.computing;
        }
    }
    let (prompt, answers) = (bench.prompt_tokens, rows * bench.decode_tokens / 2);
    let seen = answers + if one_prompt { prompt } else { rows * prompt };
    let step_bytes = (speed.weight_bytes + seen * token_bytes) as f64;
    let tokens_per_second = (steps * rows) as f64 / took.as_secs_f64();
    let limit = rows as f64 * speed.read_gb_per_second * 1e9 / step_bytes;
    let a_step = |time: Duration| 1e3 * time.as_secs_f64() / f64::from(steps as u32);
    BatchSpeed {
        rows,
        one_prompt,
        first_token_ms,
        step_ms: a_step(took),
        schedule_ms: a_step(took - computing),
        tokens_per_second,
        share_of_limit: tokens_per_second / limit,
    }
}

/// Returns the milliseconds from the requests to the first tokens, averaged over all rows; nothing else is decoded.
fn first_tokens(engine: &mut Engine, requests: &[Request], rows: usize) -> f64 {
    let started = Instant::now();
    for request in requests {
        let request = Request { max_tokens: 1, ..request.clone() };
        engine.submit(request).expect("a prompt that fits");
    }
    let mut total = 0.0;
    while !engine.is_idle() {
        let first = engine.step().iter().filter(|event| matches!(event, Event::Token { .. })).count();
        total += first as f64 * started.elapsed().as_secs_f64();
    }
    1e3 * total / rows as f64
}

fn requests(bench: &InferBench, rows: usize, one_prompt: bool) -> Vec<Request> {
    let (prompts, samples) = if one_prompt { (1, rows) } else { (rows, 1) };
    let options = SampleOptions { temperature: 1.0, ..SampleOptions::default() };
    let request = |stream: usize| {
        let mut rng = Rng::new(&[bench.seed, stream as u64]);
        let prompt = (0..bench.prompt_tokens).map(|_| rng.below(bench.vocab_size) as u32).collect();
        Request { prompt, samples, max_tokens: bench.decode_tokens, options, stream: stream as u64 }
    };
    (0..prompts).map(request).collect()
}

/// Returns a model of random weights; the zeros of a fresh model would make every logit 0.
pub fn random_model(config: GptConfig) -> Gpt {
    let mut rng = Rng::new(&[1]);
    // A prime number of values, or rows of lm_head would repeat and many logits would be equal: the worst case of
    // sampling, which no trained model has.
    let normals: Vec<f32> = (0..1_048_583).map(|_| 0.02 * rng.normal()).collect();
    let weight = |_: &str, shape: &[usize]| {
        let values = normals.iter().cycle().take(shape.iter().product()).copied().collect();
        Ok::<_, std::convert::Infallible>(Tensor::new(values, shape))
    };
    let Ok(model) = Gpt::from_weights(config, weight);
    model
}

/// Bytes of all weights that multiply.
fn weight_bytes(model: &Gpt, weights: Dtype) -> usize {
    let rounds = model.device().properties().only_recipe.map(|recipe| recipe.products);
    let params = model.params();
    let multiply = params.iter().filter(|(_, role, _)| *role != WeightRole::Embedding);
    let dtype = rounds.unwrap_or(weights);
    let factors = |w: &Tensor| if dtype == Dtype::Int8 { size_of::<f32>() * w.rows() } else { 0 };
    let bytes = |w: &Tensor| dtype.bytes() * w.len() + factors(w);
    multiply.map(|(_, _, w)| bytes(w)).sum()
}

/// Returns the bandwidth in GB/s at which all cores together read 256 MiB, the best of five runs.
fn read_bandwidth() -> f64 {
    let values = vec![1.0f32; 64 << 20];
    let time = |_| {
        let started = Instant::now();
        let parts = values.par_chunks(4 * CHUNK).map(|part| vectorized!(simd::sum(part)));
        std::hint::black_box(parts.sum::<f32>());
        started.elapsed().as_secs_f64()
    };
    let best = (0..5).map(time).fold(f64::INFINITY, f64::min);
    size_of_val(&values[..]) as f64 / best / 1e9
}
