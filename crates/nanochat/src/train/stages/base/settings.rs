//! The settings of base pretraining, and the values derived from them: sizes, number of steps, corpora.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nanochat_tensor::Device;
use serde::{Deserialize, Serialize};

use crate::model::config::{GptConfig, ModelOptions};
use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Rates;
use crate::terminal::flag_values;
use crate::text::corpus_mix::MixSource;
use crate::text::dataset::{OnBadShard, Shards};
use crate::train::stages::core_metric::CoreMetricArgs;
use crate::train::stages::run::RunSettings;

/// Settings of base pretraining. The defaults suit a laptop; the defaults of rows and batches depend on the device.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct BaseSettings {
    /// Number of layers, the one dial of the model's size; the width is 64 times the depth
    #[arg(long, value_parser = flag_values::amount, default_value_t = 4)]
    pub depth: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelOptions,
    /// Tokens in a row, the sequence length [default: 512; on a GPU 2048]
    #[arg(long, value_parser = flag_values::amount)]
    pub max_seq_len: Option<usize>,
    /// Rows (sequences) in one forward pass [default: 8; on a GPU 32]
    #[arg(long, value_parser = flag_values::amount)]
    pub device_batch_size: Option<usize>,
    /// Tokens in one optimizer step [default: 8192; on a GPU 524288]
    #[arg(long, value_parser = flag_values::amount)]
    pub total_batch_size: Option<usize>,
    /// Steps to train; takes precedence over the two options below
    #[arg(long, value_parser = flag_values::steps)]
    pub num_iterations: Option<usize>,
    /// Compute to spend, in FLOPs; takes precedence over the option below
    #[arg(long, value_parser = flag_values::positive)]
    pub target_flops: Option<f64>,
    /// Tokens to train on for each parameter (Chinchilla: 20)
    #[arg(long, value_parser = flag_values::positive, default_value_t = 20.0)]
    pub target_param_data_ratio: f64,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Largest global norm of the gradient (0: no clipping)
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 1.0)]
    pub grad_clip: f32,
    /// Fraction of the steps over which the learning rates rise
    #[arg(long, value_parser = flag_values::share, default_value_t = 0.0)]
    pub warmup_ratio: f32,
    /// Fraction of the steps over which the learning rates fall
    #[arg(long, value_parser = flag_values::share, default_value_t = 0.2)]
    pub warmdown_ratio: f32,
    /// Final learning rates, as a fraction of the full ones
    #[arg(long, value_parser = flag_values::share, default_value_t = 0.0)]
    pub final_lr_frac: f32,
    /// Measure validation bits per byte every N steps (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 250)]
    pub eval_every: usize,
    /// Tokens of validation text to measure on
    #[arg(long, value_parser = flag_values::amount, default_value_t = 65_536)]
    pub eval_tokens: usize,
    /// Print samples every N steps (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 1000)]
    pub sample_every: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub core: CoreMetricArgs,
    /// Folder of parquet shards [default: {base-dir}/base_data]
    #[arg(long, value_parser = flag_values::kept_path)]
    pub data_dir: Option<PathBuf>,
    /// One of several corpora, with its share of the tokens, instead of --data-dir: zh=0.7:FOLDER; may be repeated.
    /// Each corpus repeats at its own pace and is measured under its name
    #[arg(long, value_name = "NAME=WEIGHT:FOLDER", conflicts_with = "data_dir")]
    #[serde(default)]
    pub data: Vec<MixSource>,
    /// Additional validation text with a name: a parquet file, or a folder whose last shard is measured; may be
    /// repeated
    #[arg(long, value_name = "NAME=PATH")]
    pub val_data: Vec<String>,
    /// How to treat a shard that cannot be read
    #[arg(long, value_enum, default_value_t = OnBadShard::Refuse)]
    pub bad_shards: OnBadShard,
    /// Prompt to complete when samples are printed; may be repeated [default: nanochat's seven]
    #[arg(long)]
    pub sample_prompt: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

impl BaseSettings {
    /// Returns the settings with all sizes filled in, the [rows, tokens in a row] of a forward pass, and the tokens of
    /// a step.
    pub(super) fn sized_for(&self, device: &Device) -> (BaseSettings, [usize; 2], usize) {
        let sizes = DeviceSizes::of(device);
        let rows =
            [self.device_batch_size.unwrap_or(sizes.rows), self.max_seq_len.unwrap_or(sizes.row_tokens)];
        let total = self.total_batch_size.unwrap_or(sizes.step_tokens);
        let settings = BaseSettings {
            device_batch_size: Some(rows[0]),
            max_seq_len: Some(rows[1]),
            total_batch_size: Some(total),
            ..self.clone()
        };
        (settings, rows, total)
    }
}

/// Returns the number of micro-batches in a step. Fails unless the step's tokens are a multiple of a micro-batch's.
pub fn grad_accum_steps(total_batch_size: usize, micro_batch: usize) -> Result<usize> {
    if micro_batch == 0 || total_batch_size == 0 {
        bail!("batch sizes and sequence length must be at least 1");
    }
    if !total_batch_size.is_multiple_of(micro_batch) {
        let below = total_batch_size / micro_batch * micro_batch;
        bail!(
            "--total-batch-size {total_batch_size} is not a multiple of device batch x sequence length = {micro_batch}; the nearest that are: {} and {}",
            below.max(micro_batch),
            below + micro_batch
        );
    }
    Ok(total_batch_size / micro_batch)
}

/// Returns the number of steps, from the first option that was given: iterations, FLOPs, tokens per parameter.
pub(super) fn num_iterations(
    settings: &BaseSettings,
    config: &GptConfig,
    total_batch_size: usize,
) -> Result<usize> {
    let batch = total_batch_size as f64;
    let iterations = match (settings.num_iterations, settings.target_flops) {
        (Some(iterations), _) => iterations,
        (None, Some(flops)) => (flops / (config.flops_per_token() * batch)).round() as usize,
        (None, None) => (settings.target_param_data_ratio * config.params() as f64 / batch) as usize,
    };
    if iterations as u64 > flag_values::MOST_STEPS {
        bail!(
            "the horizon of {iterations:.2e} steps is more than {}; lower --target-flops or --target-param-data-ratio",
            flag_values::MOST_STEPS
        );
    }
    if iterations == 0 {
        bail!(
            "the horizon is less than one step; raise --num-iterations, --target-flops or --target-param-data-ratio"
        );
    }
    Ok(iterations)
}

/// Opens the training corpora and returns them with their weights.
pub(super) fn corpora(settings: &BaseSettings, base_dir: &Path) -> Result<Vec<(Shards, f64)>> {
    if settings.data.is_empty() {
        let dir = settings.data_dir.clone().unwrap_or_else(|| base_dir.join("base_data"));
        return Ok(vec![(Shards::open(&dir, settings.bad_shards)?, 1.0)]);
    }
    let open = |source: &MixSource| Ok((Shards::open(&source.dir, settings.bad_shards)?, source.weight));
    settings.data.iter().map(open).collect()
}
