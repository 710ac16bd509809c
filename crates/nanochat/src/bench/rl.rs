//! Measures a step of reinforcement learning: random questions, answers of full length, and an update over all of them.
//!
//! Answers of random weights are never right, so half of the answers to each question are declared right.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Result, ensure};
use nanochat_tensor::{Comm, Device, Rng};
use serde::Serialize;

use super::infer::random_model;
use crate::engine::sampler::SampleOptions;
use crate::engine::{Completion, Request};
use crate::model::batch::{Batch, Row};
use crate::model::config::GptConfig;
use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Rates;
use crate::model::optim::{Optimizer, ScheduleValues};
use crate::terminal::flag_values;
use crate::train;
use crate::train::stages::fit;
use crate::train::stages::rl::rollouts::{self, Rollout};
use crate::train::stages::rl::{batches, weighted_by_advantage};

/// The step to time.
#[derive(Clone, Debug, clap::Args)]
pub struct RlBench {
    /// Layers; the width is 64 times this number
    #[arg(long, value_parser = flag_values::amount, default_value_t = 4)]
    pub depth: usize,
    /// Size of the vocabulary
    #[arg(long, value_parser = flag_values::amount, default_value_t = 65_536)]
    pub vocab_size: usize,
    /// Questions in one step
    #[arg(long, value_parser = flag_values::rows, default_value_t = 16)]
    pub examples_per_step: usize,
    /// Answers to each question
    #[arg(long, value_parser = flag_values::rows, default_value_t = 16)]
    pub num_samples: usize,
    /// Tokens in a question
    #[arg(long, value_parser = flag_values::count, default_value_t = 128)]
    pub prompt_tokens: usize,
    /// Tokens of every answer
    #[arg(long, value_parser = flag_values::count, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Answers in one forward pass of training [default: 8; on a GPU 32]
    #[arg(long, value_parser = flag_values::rows)]
    pub device_batch_size: Option<usize>,
    /// Timed steps, after one that is not timed
    #[arg(long, value_parser = flag_values::count, default_value_t = 3)]
    pub steps: usize,
}

/// The measured speed, averaged over the steps.
#[derive(Clone, Debug, Serialize)]
pub struct RlSpeed {
    pub device: String,
    pub depth: usize,
    pub answers: usize,
    pub answer_tokens: usize,
    pub answering_seconds: f64,
    pub learning_seconds: f64,
    pub step_seconds: f64,
}

pub fn rl(bench: &RlBench, device: &Device) -> Result<RlSpeed> {
    let answers = bench.examples_per_step * bench.num_samples;
    ensure!(answers > 0 && bench.prompt_tokens > 0 && bench.max_new_tokens > 0, "there is nothing to time");
    let context = (bench.prompt_tokens + bench.max_new_tokens).next_multiple_of(64);
    let config = GptConfig::from_depth(bench.depth, bench.vocab_size, context)?;
    let rows = bench.device_batch_size.unwrap_or(DeviceSizes::of(device).rows);
    let comm = Comm::alone();
    fit::check(&config, rows, Default::default(), device, 1)?;
    let mut model = random_model(config).to_device(device)?;
    let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(&model, rates, 0.0, &comm);
    let longest = bench.prompt_tokens + bench.max_new_tokens;
    let mut kept = None;
    let (mut answering, mut learning) = (0.0, 0.0);
    for step in 0..=bench.steps {
        let started = Instant::now();
        // An engine that shares weights with the model is dropped after the answers, so that training need not copy
        // them.
        let mut engine = match kept.take() {
            Some(engine) => engine,
            None => rollouts::engine(&model, None, answers, longest),
        };
        engine.refresh(&model);
        let requests = requests(bench, step);
        let completions = engine.generate(&requests, |_| ControlFlow::Continue(()));
        kept = Some(engine).filter(|engine| !engine.shares_weights());
        let answered = started.elapsed().as_secs_f64();
        let groups = requests.iter().zip(completions).map(|(request, completions)| {
            let rollout = |(i, completion): (usize, Completion)| {
                let ids = [request.prompt.as_slice(), &completion.ids].concat();
                let sampled = (0..ids.len()).map(|at| at >= request.prompt.len()).collect();
                let row = Row { weights: vec![0.0; ids.len()], ids };
                Rollout { row, sampled, text: String::new(), reward: (i % 2) as f32 }
            };
            completions.into_iter().enumerate().map(rollout).collect()
        });
        let rollouts = weighted_by_advantage(groups.collect(), false);
        let batches: Vec<Batch> =
            batches(&rollouts, rows, &model, &comm).into_iter().map(|(batch, _)| batch).collect();
        let tokens = (answers * bench.max_new_tokens) as f32;
        let scheduled = ScheduleValues { lr_multiplier: 0.05, muon_momentum: 0.95 };
        train::step_over(tokens, &mut model, &mut optimizer, &batches, scheduled)?;
        device.synchronize();
        if step > 0 {
            answering += answered;
            learning += started.elapsed().as_secs_f64() - answered;
        }
    }
    let mean = |seconds: f64| seconds / bench.steps.max(1) as f64;
    Ok(RlSpeed {
        device: device.to_string(),
        depth: bench.depth,
        answers,
        answer_tokens: bench.max_new_tokens,
        answering_seconds: mean(answering),
        learning_seconds: mean(learning),
        step_seconds: mean(answering + learning),
    })
}

fn requests(bench: &RlBench, step: usize) -> Vec<Request> {
    let request = |question: usize| {
        let stream = (step * bench.examples_per_step + question) as u64;
        let mut rng = Rng::new(&[12, stream]);
        let prompt = (0..bench.prompt_tokens).map(|_| rng.below(bench.vocab_size) as u32).collect();
        let options = SampleOptions { temperature: 1.0, top_k: 50, ..SampleOptions::default() };
        Request { prompt, samples: bench.num_samples, max_tokens: bench.max_new_tokens, options, stream }
    };
    (0..bench.examples_per_step).map(request).collect()
}
