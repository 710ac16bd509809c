//! Chooses the learning rates that a plan prints.
//!
//! nanochat's defaults were tuned at 524,288 tokens a step; for another batch the usual rule is rates times √(batch
//! ratio). It holds down to an eighth: on an H100, a d4 on 33 million tokens of the built-in world reaches these bits
//! per byte:
//!
//! | total batch | defaults | by the rule |
//! |---:|---:|---:|
//! | 131,072 | 0.239 | 0.227 |
//! | 65,536 | 0.240 | 0.230 |
//! | 32,768 | 0.229 | 0.232 |
//! | 8,192 | 0.216 | 0.235 |
//!
//! Far below that, the rule ruins a run. A step of Muon or AdamW changes a weight by about its learning rate, whatever
//! the gradient's size, and a short run has too few steps to move far: a d2 at 1,024 tokens a step (rates divided by
//! 23) is after 150 steps at 2.67 instead of 1.08, after 1,500 at 0.84 instead of 0.49. Scaling only the rate of the
//! matrices or of the head costs 0.12 of these, that of the embedding 0.02.

use serde::Serialize;

use super::PlanOptions;
use super::options::USUAL_BATCH;
use crate::model::gpt::{EMBEDDING_LR, MATRIX_LR, UNEMBEDDING_LR};
use crate::text::language::TextLanguage;

/// The ratio to the usual batch within which the rule is applied; larger batches were not measured.
const RULE_HOLDS: f64 = 8.0;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LearningRates {
    pub matrix_lr: f64,
    pub embedding_lr: f64,
    pub unembedding_lr: f64,
}

/// The defaults of `nanochat train base`.
const DEFAULT: LearningRates =
    LearningRates { matrix_lr: MATRIX_LR, embedding_lr: EMBEDDING_LR, unembedding_lr: UNEMBEDDING_LR };
/// The learning rate of matrices on Chinese text.
const CHINESE_MATRIX_LR: f64 = 0.022;

impl LearningRates {
    /// Returns the defaults (0.022 for matrices on Chinese text) times √(batch / 524,288) where the rule holds.
    pub(super) fn of(options: &PlanOptions) -> LearningRates {
        let scale = if rule_holds(options) { batch_ratio(options).sqrt() } else { 1.0 };
        let chinese = options.language == TextLanguage::Zh;
        let matrix_lr = if chinese { CHINESE_MATRIX_LR } else { DEFAULT.matrix_lr };
        LearningRates {
            matrix_lr: matrix_lr * scale,
            embedding_lr: DEFAULT.embedding_lr * scale,
            unembedding_lr: DEFAULT.unembedding_lr * scale,
        }
    }

    /// Returns the rates as flags, each after a space; nothing for a default.
    pub(super) fn flags(&self) -> String {
        let flag = |name: &str, rate: f64, default: f64, digits: usize| match rate == default {
            true => String::new(),
            false => format!(" --{name} {rate:.digits$}"),
        };
        flag("matrix-lr", self.matrix_lr, DEFAULT.matrix_lr, 4)
            + &flag("embedding-lr", self.embedding_lr, DEFAULT.embedding_lr, 4)
            + &flag("unembedding-lr", self.unembedding_lr, DEFAULT.unembedding_lr, 5)
    }
}

/// Explains the rates if the batch is not the usual one.
pub(super) fn advice(options: &PlanOptions) -> Option<String> {
    match batch_ratio(options) {
        1.0 => None,
        ratio if rule_holds(options) => {
            Some(format!("learning rates: the usual ones times √{ratio}, for another total batch"))
        }
        _ => Some("learning rates: the usual ones; the √ rule holds near a total batch of 524288".into()),
    }
}

fn batch_ratio(options: &PlanOptions) -> f64 {
    options.total_batch_size() as f64 / USUAL_BATCH as f64
}

fn rule_holds(options: &PlanOptions) -> bool {
    (1.0 / RULE_HOLDS..=RULE_HOLDS).contains(&batch_ratio(options))
}
