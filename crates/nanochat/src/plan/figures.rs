//! The constants of a plan: for each language, measured and from nanochat's guides, and for each GPU.

use serde::{Deserialize, Serialize};

use crate::text::language::TextLanguage;

impl TextLanguage {
    /// Returns the training tokens per parameter.
    pub(super) fn ratio(self, english_tokenizer: bool) -> usize {
        match (self, english_tokenizer) {
            (TextLanguage::En, _) => 20,
            (TextLanguage::Mix, _) => 22,
            (TextLanguage::Zh, false) => 25,
            (TextLanguage::Zh, true) => 30,
        }
    }

    /// Returns the middle of the ranges 2.5–3.0 (Chinese), 1.5–2.0 (with an English tokenizer), 3.0–3.5 (mixed).
    pub(super) fn chars_per_token(self, english_tokenizer: bool) -> f64 {
        match (self, english_tokenizer) {
            (TextLanguage::En, _) => 4.8,
            (TextLanguage::Mix, _) => 3.25,
            (TextLanguage::Zh, false) => 2.75,
            (TextLanguage::Zh, true) => 1.75,
        }
    }

    /// Returns the default sequence length. A Chinese document has more tokens than an English one of the same length,
    /// so longer rows cut fewer documents.
    pub(super) fn usual_seq_len(self) -> usize {
        if self == TextLanguage::Zh { 3_072 } else { 2_048 }
    }

    pub fn usual_vocab(self) -> usize {
        match self {
            TextLanguage::En => 65_536,
            TextLanguage::Zh => 40_000,
            TextLanguage::Mix => 50_000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuModel {
    H100,
    A100,
    V100,
    /// Any other GPU, assumed to have the speed and memory of an H100
    Other,
    /// No GPU: float32 on about two AVX-512 cores
    Cpu,
}

impl GpuModel {
    /// Returns (peak dense bf16 or fp16 FLOP/s, dollars an hour, GB of memory); the CPU's FLOP/s are f32.
    pub(super) fn figures(self) -> (f64, f64, f64) {
        match self {
            GpuModel::H100 => (989e12, 3.0, 80.0),
            GpuModel::A100 => (312e12, 1.79, 80.0),
            GpuModel::V100 => (125e12, 0.55, 32.0),
            GpuModel::Other => (989e12, 2.0, 80.0),
            GpuModel::Cpu => (0.4e12, 0.0, 16.0),
        }
    }
}
