//! The settings of reinforcement learning, and the sizes that follow from them.

use anyhow::{Result, bail};
use nanochat_tensor::Device;
use serde::{Deserialize, Serialize};

use super::rollouts::Sampling;
use crate::chat::mixture::MixtureArgs;
use crate::engine::sampler::SampleOptions;
use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Rates;
use crate::terminal::flag_values;
use crate::train::stages::epochs::Epochs;
use crate::train::stages::run::RunSettings;
use crate::train::stages::source::SourceArgs;

/// Settings of reinforcement learning.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct RlSettings {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub mixture: MixtureArgs,
    /// Questions in one step
    #[arg(long, value_parser = flag_values::count, default_value_t = 16)]
    pub examples_per_step: usize,
    /// Answers to each question
    #[arg(long, value_parser = flag_values::count, default_value_t = 16)]
    pub num_samples: usize,
    /// Answers in one forward pass of training [default: 8; on a GPU 32]
    #[arg(long, value_parser = flag_values::count)]
    pub device_batch_size: Option<usize>,
    /// Times to go through the questions
    #[arg(long, value_parser = flag_values::positive, default_value_t = 1.0)]
    pub num_epochs: f64,
    /// Steps to train; wins over the epochs
    #[arg(long, value_parser = flag_values::steps)]
    pub num_iterations: Option<usize>,
    /// Longest answer, in tokens
    #[arg(long, value_parser = flag_values::count, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Randomness of the answers
    #[arg(long, value_parser = flag_values::temperature, default_value_t = 1.0)]
    pub temperature: f32,
    /// Choose each token among the K likeliest only; 0 turns this off
    #[arg(long, value_parser = flag_values::amount, default_value_t = 50)]
    pub top_k: usize,
    /// Optimizer steps on the same answers; above 1 only the first is on policy
    #[arg(long, value_parser = flag_values::count, default_value_t = 1)]
    pub updates_per_step: usize,
    /// Leave a token alone once its probability has changed by more than this share (PPO's clip; 0: never)
    #[arg(long, value_parser = flag_values::share, default_value_t = 0.0)]
    pub clip_ratio: f32,
    /// Weight of the divergence from the model it started from (GRPO's KL term; 0: none)
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 0.0)]
    pub kl_coef: f32,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Share of the rates to start with; they fall to 0 in a straight line
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 0.05)]
    pub init_lr_frac: f32,
    /// Measure pass@k every N steps (0: at the beginning and the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 60)]
    pub eval_every: usize,
    /// Held-out questions to measure on
    #[arg(long, value_parser = flag_values::amount, default_value_t = 400)]
    pub eval_examples: usize,
    /// Answers to each of them: the largest k
    #[arg(long, value_parser = flag_values::count, default_value_t = 8)]
    pub eval_samples: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

/// Answers of a step, at most: all are kept until it has learned from them.
const MOST_ANSWERS: usize = 1_000_000;

impl RlSettings {
    /// Refuses more answers a step than can be kept.
    pub(super) fn check(&self) -> Result<()> {
        let (questions, samples) = (self.examples_per_step, self.num_samples);
        if questions * samples > MOST_ANSWERS {
            bail!(
                "--examples-per-step {questions} with --num-samples {samples} are more than {MOST_ANSWERS} answers a step"
            );
        }
        Ok(())
    }

    /// Answers in one forward pass of training.
    pub(super) fn rows(&self, device: &Device) -> usize {
        self.device_batch_size.unwrap_or(DeviceSizes::of(device).rows)
    }

    /// Steps to train: as given, or as many as the epochs take.
    pub(super) fn steps(&self, questions: usize) -> Result<usize> {
        let (num_epochs, per_step) = (self.num_epochs, self.examples_per_step);
        let smaller_step = "--examples-per-step";
        Epochs { num_epochs, per_step, item: "question", smaller_step }.steps(questions, self.num_iterations)
    }

    /// How `samples` answers to each question are drawn.
    pub(super) fn sampling(&self, samples: usize) -> Sampling {
        let RlSettings { temperature, top_k, max_new_tokens, ref run, .. } = *self;
        let options = SampleOptions { temperature, top_k, seed: run.seed, ..SampleOptions::default() };
        Sampling { samples, max_new_tokens, options }
    }
}
