//! The settings of reinforcement learning, and the sizes derived from them.

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
    /// Epochs: how often to go through the questions
    #[arg(long, value_parser = flag_values::positive, default_value_t = 1.0)]
    pub num_epochs: f64,
    /// Steps to train; takes precedence over --num-epochs
    #[arg(long, value_parser = flag_values::steps)]
    pub num_iterations: Option<usize>,
    /// Maximum length of an answer, in tokens
    #[arg(long, value_parser = flag_values::count, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Sampling temperature of the answers
    #[arg(long, value_parser = flag_values::temperature, default_value_t = 1.0)]
    pub temperature: f32,
    /// Sample each token from the K likeliest only; 0 turns this off
    #[arg(long, value_parser = flag_values::amount, default_value_t = 50)]
    pub top_k: usize,
    /// Optimizer steps on the same answers; with more than 1, only the first is on policy
    #[arg(long, value_parser = flag_values::count, default_value_t = 1)]
    pub updates_per_step: usize,
    /// Stop changing a token once its probability has changed by more than this fraction (PPO's clip; 0: never)
    #[arg(long, value_parser = flag_values::share, default_value_t = 0.0)]
    pub clip_ratio: f32,
    /// Weight of the KL divergence from the initial model (GRPO's KL term; 0: none)
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 0.0)]
    pub kl_coef: f32,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Initial learning rates as a fraction of the full ones; they fall linearly to 0
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 0.05)]
    pub init_lr_frac: f32,
    /// Measure pass@k every N steps (0: at the beginning and the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 60)]
    pub eval_every: usize,
    /// Held-out questions to measure on
    #[arg(long, value_parser = flag_values::amount, default_value_t = 400)]
    pub eval_examples: usize,
    /// Answers to each held-out question, the largest k of pass@k
    #[arg(long, value_parser = flag_values::count, default_value_t = 8)]
    pub eval_samples: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

/// The maximum answers of a step; all are kept in memory until the step has learned from them.
const MOST_ANSWERS: usize = 1_000_000;

impl RlSettings {
    /// Returns an error if a step has more answers than can be kept.
    pub(super) fn check(&self) -> Result<()> {
        let (questions, samples) = (self.examples_per_step, self.num_samples);
        if questions * samples > MOST_ANSWERS {
            bail!(
                "--examples-per-step {questions} with --num-samples {samples} are more than {MOST_ANSWERS} answers a step"
            );
        }
        Ok(())
    }

    /// Returns the number of answers in one forward pass of training.
    pub(super) fn rows(&self, device: &Device) -> usize {
        self.device_batch_size.unwrap_or(DeviceSizes::of(device).rows)
    }

    /// Returns the number of steps to train: as given, or as the epochs require.
    pub(super) fn steps(&self, questions: usize) -> Result<usize> {
        let (num_epochs, per_step) = (self.num_epochs, self.examples_per_step);
        let smaller_step = "--examples-per-step";
        Epochs { num_epochs, per_step, item: "question", smaller_step }.steps(questions, self.num_iterations)
    }

    /// Returns the options for sampling `samples` answers to each question.
    pub(super) fn sampling(&self, samples: usize) -> Sampling {
        let RlSettings { temperature, top_k, max_new_tokens, ref run, .. } = *self;
        let options = SampleOptions { temperature, top_k, seed: run.seed, ..SampleOptions::default() };
        Sampling { samples, max_new_tokens, options }
    }
}
