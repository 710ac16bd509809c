//! The options of a plan, and the reasons why it may be refused.

use serde::{Deserialize, Serialize};

use super::figures::GpuModel;
use crate::model::config::{ConfigError, GptConfig, ModelOptions, Recompute};
use crate::model::device_sizes::DeviceSizes;
use crate::terminal::flag_values;
use crate::text::language::TextLanguage;

/// Tokens a step at which the default learning rates were found.
pub(super) const USUAL_BATCH: usize = DeviceSizes::GPU.step_tokens;
/// Rows of a GPU's length in it.
const USUAL_ROWS: usize = USUAL_BATCH / DeviceSizes::GPU.row_tokens;

/// The options of a plan.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct PlanOptions {
    /// Language of the training text
    #[arg(long = "lang", alias = "language", value_enum, default_value = "en")]
    pub language: TextLanguage,
    /// Assume a tokenizer trained on English text, which needs more tokens for Chinese
    #[arg(long)]
    pub english_tokenizer: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelOptions,
    /// Size of the vocabulary [default: the language's usual one]
    #[arg(long, value_parser = flag_values::amount)]
    pub vocab_size: Option<usize>,
    /// Characters per token [default: the language's usual number]
    #[arg(long, value_parser = flag_values::positive)]
    pub chars_per_token: Option<f64>,
    /// Length of a sequence, in tokens [default: 2048; for Chinese 3072]
    #[arg(long, value_parser = flag_values::amount)]
    pub max_seq_len: Option<usize>,
    /// Sequences that a device processes at once [default: the most, up to 32, that fit and divide the batch]
    #[arg(long, value_parser = flag_values::amount)]
    pub device_batch_size: Option<usize>,
    /// Values that the backward pass recomputes instead of keeping them in memory
    #[arg(long, value_enum, default_value_t)]
    pub recompute: Recompute,
    /// Tokens in one optimizer step, over all devices [default: 524288, or 256 sequences where these do not divide it]
    #[arg(long, value_parser = flag_values::large::<usize>)]
    pub total_batch_size: Option<usize>,
    /// Kind of GPU
    #[arg(long, value_enum, default_value = "h100")]
    pub gpu: GpuModel,
    /// Number of GPUs
    #[arg(long, value_parser = flag_values::amount, default_value_t = 8)]
    pub gpus: usize,
    /// Bus bandwidth at which GPUs exchange gradients, in GB/s (measured on 2 to 8 H100 with NVLink: 329 to 361)
    #[arg(long, value_name = "GB/S", value_parser = flag_values::positive, default_value_t = 330.0)]
    pub link_bandwidth: f64,
    /// Dollars per GPU and hour [default: the kind's usual price]
    #[arg(long, value_parser = flag_values::dollars)]
    pub price: Option<f64>,
    /// Memory of one GPU in GB [default: the kind's]
    #[arg(long, value_parser = flag_values::positive)]
    pub memory_gb: Option<f64>,
    /// Share of the peak FLOP/s that training reaches (nanochat measured 0.50 for d20, 0.51 for d32)
    #[arg(long, value_parser = flag_values::positive, default_value_t = 0.5)]
    pub mfu: f64,
    /// Number of available text shards, to compute how many times they would be read
    #[arg(long, value_parser = flag_values::amount)]
    pub shards: Option<usize>,
}

impl PlanOptions {
    /// Returns the default run in a language on one device.
    pub fn new(language: TextLanguage, gpu: GpuModel) -> PlanOptions {
        PlanOptions {
            language,
            english_tokenizer: false,
            model: ModelOptions::default(),
            vocab_size: None,
            chars_per_token: None,
            max_seq_len: None,
            device_batch_size: None,
            recompute: Recompute::None,
            total_batch_size: None,
            gpu,
            gpus: 1,
            link_bandwidth: 330.0,
            price: None,
            memory_gb: None,
            mfu: 0.5,
            shards: None,
        }
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size.unwrap_or(self.language.usual_vocab())
    }

    pub(super) fn seq_len(&self) -> usize {
        self.max_seq_len.unwrap_or(self.language.usual_seq_len())
    }

    /// Returns the model configuration of a depth.
    pub(super) fn config(&self, depth: usize) -> Result<GptConfig, ConfigError> {
        self.model.config(depth, self.vocab_size(), self.seq_len())
    }

    pub(super) fn total_batch_size(&self) -> usize {
        let seq_len = self.seq_len();
        let usual = if USUAL_BATCH.is_multiple_of(seq_len) { USUAL_BATCH } else { USUAL_ROWS * seq_len };
        self.total_batch_size.unwrap_or(usual)
    }
}

/// The reason why a run is not possible as requested, and the nearest possible one.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PlanError {
    #[error(transparent)]
    Model(#[from] ConfigError),
    #[error("{option} must be from {least} to {most}, found {found}")]
    Range { option: &'static str, least: f64, most: f64, found: f64 },
    #[error("--shards must be at least 2 (the last one is for validation), found {found}")]
    Shards { found: usize },
    #[error(
        "a total batch of {total} tokens has {rows} sequences of {seq} tokens, too few for {gpus} devices; at most {rows} can share it, or raise --total-batch-size to {micro} and more"
    )]
    TooManyGpus { total: usize, rows: usize, seq: usize, gpus: usize, micro: usize },
    #[error(
        "a total batch of {total} tokens is no multiple of {micro} (device batch {device_batch} · sequence {seq} · {gpus} devices); the nearest that work are {nearest:?}"
    )]
    TotalBatch {
        total: usize,
        micro: usize,
        device_batch: usize,
        seq: usize,
        gpus: usize,
        nearest: Vec<usize>,
    },
    #[error(
        "d{depth} with a device batch of {device_batch} needs {needed:.1} GB of memory and has {usable:.1}; the largest device batch that works is {largest}"
    )]
    DeviceBatch { depth: usize, device_batch: usize, needed: f64, usable: f64, largest: usize },
    #[error(
        "d{depth} needs {needed:.1} GB of memory even for one sequence at a time and has {usable:.1}; {nearest}"
    )]
    Memory { depth: usize, needed: f64, usable: f64, nearest: String },
    #[error(
        "d{depth} trains on {tokens} tokens, less than one total batch of {total}; the largest total batch that works is {nearest}"
    )]
    TooFewTokens { depth: usize, tokens: usize, total: usize, nearest: usize },
    #[error("no model can be trained for ${budget:.2}; the least is d{depth} for ${least:.2}")]
    Budget { budget: f64, depth: usize, least: f64 },
}

/// Checks the options. The limits are far beyond any run; they prevent overflow, and keep hours and dollars finite.
pub(super) fn check(depth: usize, options: &PlanOptions) -> Result<(), PlanError> {
    in_range("--depth", depth as f64, 1.0, 1e3)?;
    let counts = [
        ("--vocab-size", options.vocab_size, 1e8),
        ("--max-seq-len", options.max_seq_len, 1e8),
        ("--total-batch-size", options.total_batch_size, 1e12),
        ("--device-batch-size", options.device_batch_size, 1e6),
        ("--gpus", Some(options.gpus), 1e5),
    ];
    for (option, found, most) in counts {
        found.map_or(Ok(()), |found| in_range(option, found as f64, 1.0, most))?;
    }
    let amounts = [
        ("--link-bandwidth", Some(options.link_bandwidth), 1e-3, 1e6),
        ("--mfu", Some(options.mfu), 1e-4, 1.0),
        ("--memory-gb", options.memory_gb, 1e-3, 1e6),
        ("--chars-per-token", options.chars_per_token, 1e-3, 1e3),
        ("--price", options.price, 0.0, 1e6),
    ];
    for (option, found, least, most) in amounts {
        found.map_or(Ok(()), |found| in_range(option, found, least, most))?;
    }
    match options.shards {
        Some(found @ 0..2) => Err(PlanError::Shards { found }),
        _ => Ok(()),
    }
}

/// Refuses a value outside the range, and NaN.
pub(super) fn in_range(option: &'static str, found: f64, least: f64, most: f64) -> Result<(), PlanError> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => Err(PlanError::Range { option, least, most, found }),
    }
}
