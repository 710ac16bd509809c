//! The model's sizes, all of which follow from `depth` (nanochat's one dial).

use nanochat_tensor::gemm::has_bf16;
use nanochat_tensor::ops::EPS;
use nanochat_tensor::{Device, Recipe, ShapeLimits};
use serde::{Deserialize, Serialize};

use crate::terminal::flag_values;

/// The base (theta) of nanochat's rotary position embeddings.
pub const ROPE_THETA: f32 = 10_000.0;

/// The sizes of a GPT, named as in nanochat's checkpoints, and two constants that may differ in models of another
/// origin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GptConfig {
    pub sequence_len: usize,
    pub vocab_size: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_kv_head: usize,
    pub n_embd: usize,
    /// The epsilon that RMS norms add to the mean square.
    #[serde(default = "eps")]
    pub rms_norm_eps: f32,
    /// The base (theta) of the rotary position embeddings.
    #[serde(default = "rope_theta")]
    pub rope_theta: f32,
}

fn eps() -> f32 {
    EPS
}

fn rope_theta() -> f32 {
    ROPE_THETA
}

/// The options that override sizes derived from the depth; they are flags of base training and of `plan`.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct ModelOptions {
    /// Key and value heads, fewer than query heads for GQA [default: as many]
    #[arg(long, value_parser = flag_values::amount)]
    pub n_kv_head: Option<usize>,
}

impl ModelOptions {
    pub fn config(
        &self,
        depth: usize,
        vocab_size: usize,
        sequence_len: usize,
    ) -> Result<GptConfig, ConfigError> {
        let config = GptConfig::from_depth(depth, vocab_size, sequence_len)?;
        config.with_kv_heads(self.n_kv_head.unwrap_or(config.n_head))
    }

    /// Writes the options as flags of a command line, each after a space.
    pub fn flags(&self) -> String {
        let ModelOptions { n_kv_head } = self;
        n_kv_head.map_or(String::new(), |n| format!(" --n-kv-head {n}"))
    }
}

/// The activations that the backward pass recomputes instead of keeping (activation checkpointing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: the fastest
    #[default]
    None,
    /// The MLP's hidden values: 6 of 10 values are kept, for about a fifth more work
    Mlp,
    /// All of a layer but its input: 1 of 10 values is kept, for about a third more work
    Block,
}

impl std::fmt::Display for Recompute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Recompute::None => "none",
            Recompute::Mlp => "mlp",
            Recompute::Block => "block",
        })
    }
}

/// The precision of matrix products in training on the CPU: the type to which their inputs are rounded. Weights, their
/// gradients and all sums are always f32. A GPU always trains in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// To bf16 where the processor has AVX512-BF16 and is faster for it, else not at all
    #[default]
    Auto,
    /// Not at all: the same run on every processor
    F32,
    /// To bf16
    Bf16,
}

impl Precision {
    /// Returns the precision itself, or the one that `Auto` stands for on this processor.
    pub fn chosen(self) -> Precision {
        match self {
            Precision::Auto if has_bf16() => Precision::Bf16,
            Precision::Auto => Precision::F32,
            said => said,
        }
    }

    /// Returns the number types in which a model on `device` computes: the device's own if it supports only one recipe.
    pub fn recipe(self, device: &Device) -> Recipe {
        let asked = match self.chosen() {
            Precision::Bf16 => Recipe::BF16_PRODUCTS,
            Precision::F32 | Precision::Auto => Recipe::F32,
        };
        device.properties().only_recipe.unwrap_or(asked)
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::Auto => "auto",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// Channels for each layer.
const ASPECT_RATIO: usize = 64;
/// Far above any model there is; below them no count of anything overflows.
const MAX_DEPTH: usize = 1_000;
const MAX_SEQUENCE: usize = 1 << 24;
const MAX_VOCABULARY: usize = 1 << 24;

/// The error of sizes that form no valid model, or that a device has no kernels for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error(
        "depth {depth} gives {n_head} heads, which do not divide its width {n_embd}; the nearest depths that work are {below} and {above}"
    )]
    Depth { depth: usize, n_head: usize, n_embd: usize, below: usize, above: usize },
    #[error("{n_kv_head} key-value heads do not divide {n_head} query heads; choose one of {choices:?}")]
    KvHeads { n_kv_head: usize, n_head: usize, choices: Vec<usize> },
    #[error("{what} must be at most {most}, found {found}")]
    TooLarge { what: &'static str, most: usize, found: usize },
    #[error("{what} must be at least {least}, found {found}")]
    TooSmall { what: &'static str, least: usize, found: usize },
    #[error(
        "--device cuda works with heads of {works} values, and this model's have {head_dim}; every even --depth gives 128, and --device cpu takes any"
    )]
    HeadDim { head_dim: usize, works: String },
    #[error(
        "--device cuda works with up to {most} query heads for each key-value head, and this model has {n_head} for {n_kv_head}; --device cpu takes any"
    )]
    QueriesAKey { n_head: usize, n_kv_head: usize, most: usize },
    #[error(
        "--device cuda works with widths up to {widest} in steps of {step}, and this model's is {width}; --depth {deepest} is the deepest, and --device cpu takes any"
    )]
    Width { width: usize, widest: usize, step: usize, deepest: usize },
}

impl GptConfig {
    /// Returns the sizes for a depth: the width is 64 times the depth, with one head per 128 channels, rounded up (as
    /// in nanochat's base_train.py). Fails if the width does not divide into heads of an even size.
    pub fn from_depth(
        depth: usize,
        vocab_size: usize,
        sequence_len: usize,
    ) -> Result<GptConfig, ConfigError> {
        at_least("depth", 1, depth)?;
        at_most("depth", MAX_DEPTH, depth)?;
        let (n_embd, n_head) = width_and_heads(depth);
        let works = |depth: &usize| {
            let (n_embd, n_head) = width_and_heads(*depth);
            n_embd % n_head == 0 && n_embd / n_head % 2 == 0
        };
        if !works(&depth) {
            let below = (1..depth).rev().find(works).unwrap_or(1);
            let above = (depth + 1..).find(works).expect("every even depth works");
            return Err(ConfigError::Depth { depth, n_head, n_embd, below, above });
        }
        let (rms_norm_eps, rope_theta) = (EPS, ROPE_THETA);
        let (n_layer, n_kv_head) = (depth, n_head);
        GptConfig { sequence_len, vocab_size, n_layer, n_head, n_kv_head, n_embd, rms_norm_eps, rope_theta }
            .checked()
    }

    /// Returns the same sizes with `n_kv_head` key-value heads (fewer than query heads: GQA; 1: MQA).
    pub fn with_kv_heads(self, n_kv_head: usize) -> Result<GptConfig, ConfigError> {
        GptConfig { n_kv_head, ..self }.checked()
    }

    /// Returns the sizes unchanged, or an error if no model can have them.
    pub fn checked(self) -> Result<GptConfig, ConfigError> {
        at_least("sequence length", 1, self.sequence_len)?;
        at_most("sequence length", MAX_SEQUENCE, self.sequence_len)?;
        at_least("vocabulary size", 1, self.vocab_size)?;
        at_most("vocabulary size", MAX_VOCABULARY, self.vocab_size)?;
        at_most("number of layers", MAX_DEPTH, self.n_layer)?;
        at_most("hidden_size", width_and_heads(MAX_DEPTH).0, self.n_embd)?;
        at_least("number of heads", 1, self.n_head)?;
        at_most("number of heads", self.n_embd, self.n_head)?;
        let choices: Vec<usize> = (1..=self.n_head).filter(|n| self.n_head.is_multiple_of(*n)).collect();
        match choices.contains(&self.n_kv_head) {
            true => Ok(self),
            false => Err(ConfigError::KvHeads { n_kv_head: self.n_kv_head, n_head: self.n_head, choices }),
        }
    }

    /// Returns an error for sizes that a device has no kernels for; without `limits` it has kernels for all sizes.
    pub fn within(&self, limits: Option<ShapeLimits>) -> Result<(), ConfigError> {
        let Some(ShapeLimits { head_dims, queries_a_key: most, widest, width_step: step }) = limits else {
            return Ok(());
        };
        let GptConfig { n_head, n_kv_head, n_embd: width, .. } = *self;
        if !head_dims.contains(&self.head_dim()) {
            let works: Vec<String> = head_dims.iter().map(usize::to_string).collect();
            return Err(ConfigError::HeadDim { head_dim: self.head_dim(), works: works.join(" or ") });
        }
        if n_head / n_kv_head > most {
            return Err(ConfigError::QueriesAKey { n_head, n_kv_head, most });
        }
        if width > widest || !width.is_multiple_of(step) {
            return Err(ConfigError::Width { width, widest, step, deepest: widest / ASPECT_RATIO });
        }
        Ok(())
    }

    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Returns the width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_head * self.head_dim()
    }
}

fn width_and_heads(depth: usize) -> (usize, usize) {
    let n_embd = ASPECT_RATIO * depth;
    (n_embd, n_embd.div_ceil(128).max(1))
}

fn at_most(what: &'static str, most: usize, found: usize) -> Result<(), ConfigError> {
    if found > most { Err(ConfigError::TooLarge { what, most, found }) } else { Ok(()) }
}

fn at_least(what: &'static str, least: usize, found: usize) -> Result<(), ConfigError> {
    if found < least { Err(ConfigError::TooSmall { what, least, found }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_that_cannot_divide_name_their_neighbours() {
        let error = GptConfig::from_depth(5, 1_000, 64).unwrap_err();
        assert_eq!(error, ConfigError::Depth { depth: 5, n_head: 3, n_embd: 320, below: 4, above: 6 });
        let odd: Vec<usize> =
            (1..40).step_by(2).filter(|d| GptConfig::from_depth(*d, 9, 9).is_ok()).collect();
        assert_eq!(odd, [1, 3, 7, 15, 31]);
        assert!((2..40).step_by(2).all(|depth| GptConfig::from_depth(depth, 9, 9).is_ok()));
    }

    #[test]
    fn grouped_queries_need_a_divisor() {
        let config = GptConfig::from_depth(8, 100, 64).unwrap();
        assert_eq!(config.with_kv_heads(2).unwrap().kv_dim(), 256);
        assert!(config.with_kv_heads(3).unwrap_err().to_string().contains("[1, 2, 4]"));
    }

    #[test]
    fn shapes_without_a_kernel_are_refused_in_words() {
        let with_depth = |depth| GptConfig::from_depth(depth, 100, 64).unwrap();
        let refused = |config: GptConfig| config.within(Some(ShapeLimits::CUDA)).unwrap_err().to_string();
        for depth in [1, 2, 4, 8, 12, 20, 26, 32, 64] {
            with_depth(depth).within(Some(ShapeLimits::CUDA)).unwrap();
        }
        assert!(refused(with_depth(3)).contains("heads of 64 or 128 values, and this model's have 96"));
        assert!(refused(with_depth(66)).contains("up to 4096 in steps of 8"));
        assert!(refused(with_depth(66)).contains("--depth 64 is the deepest"));
        let one_key_head = with_depth(40).with_kv_heads(1).unwrap();
        assert!(refused(one_key_head).contains("up to 16 query heads for each key-value head"));
        one_key_head.within(None).unwrap();
    }
}
