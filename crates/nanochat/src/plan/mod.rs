//! Plans a training run before it starts: parameters, tokens, steps, shards, memory, time and cost.
//!
//! Everything follows from `depth` by nanochat's rules. A configuration that cannot run is refused with
//! the nearest one that can.

mod figures;
mod fit;
mod memory;
mod options;
mod rates;
mod scaling;

use serde::Serialize;

use self::options::{check, in_range};
use crate::model::config::{GptConfig, ModelOptions, Recompute};
use crate::text::dataset::CHARS_PER_SHARD;
use crate::text::language::TextLanguage;

pub use figures::GpuModel;
pub use fit::what_fits;
pub use memory::Memory;
pub use options::{PlanError, PlanOptions};
pub use rates::LearningRates;
pub use scaling::Scaling;

/// Largest device batch that is chosen without being asked for: more gives no speed.
const LARGEST_BATCH: usize = 32;
/// The share of a device's memory that a plan may use; the rest is for workspaces, fragmentation and the runtime.
const USABLE_MEMORY: f64 = 0.9;
/// The H100-hours of all stages except pretraining, per layer: 3.6 minutes on 8×H100. Fitted, with an MFU of 0.5, to
/// the published whole runs of d4 (15 min) to d32 (33 h); the error is below 20 %.
const OTHER_STAGES_HOURS_A_LAYER: f64 = 0.48;
/// The depths of nanochat's guides.
const DEPTHS: [usize; 9] = [4, 6, 8, 10, 12, 16, 20, 26, 32];
const DEEPEST: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bill {
    pub hours: f64,
    pub dollars: f64,
}

/// A run that can be started with these settings.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub depth: usize,
    pub model: GptConfig,
    pub model_options: ModelOptions,
    pub params: usize,
    pub tokens_per_param: usize,
    /// steps · total_batch_size
    pub tokens: usize,
    pub steps: usize,
    pub total_batch_size: usize,
    pub device_batch_size: usize,
    pub grad_accum_steps: usize,
    pub chars_per_token: f64,
    pub characters: f64,
    /// The shards for one epoch, with a margin of 10 %.
    pub shards: usize,
    /// The number of times that the shards given in the options are read; the last of them is for validation.
    pub epochs: Option<f64>,
    /// The memory on each device, in bytes.
    pub memory: Memory,
    pub memory_available: f64,
    pub recompute: Recompute,
    pub flops: f64,
    /// The time that several GPUs spend on exchanging gradients and weights.
    pub scaling: Option<Scaling>,
    pub pretraining: Bill,
    /// The cost from raw text to the report; on the CPU only of pretraining.
    pub whole_run: Bill,
    pub learning_rates: LearningRates,
    /// Further advice for such text and sizes, one sentence each.
    pub suggestions: Vec<String>,
}

impl Plan {
    /// Returns the shards needed for a share of the tokens in one language; 0.5 is half of them.
    pub fn shards_of(&self, language: TextLanguage, share: f64) -> usize {
        shards(share * self.tokens as f64 * language.chars_per_token(false))
    }

    /// Returns the run as flags of `nanochat train base`, for a tokenizer with the plan's vocabulary size.
    pub fn train_flags(&self) -> String {
        let mut flags = format!(
            "--depth {} --max-seq-len {} --device-batch-size {} --total-batch-size {} --target-param-data-ratio {}",
            self.depth,
            self.model.sequence_len,
            self.device_batch_size,
            self.total_batch_size,
            self.tokens_per_param
        );
        flags += &self.model_options.flags();
        if self.recompute != Recompute::None {
            flags += &format!(" --recompute {}", self.recompute);
        }
        flags + &self.learning_rates.flags()
    }
}

/// Returns the plan of a run of one depth.
pub fn plan(depth: usize, options: &PlanOptions) -> Result<Plan, PlanError> {
    check(depth, options)?;
    let model = options.config(depth)?;
    let device_batch_size = device_batch(depth, &model, options)?;
    let micro = device_batch_size * options.seq_len() * options.gpus;
    let total_batch_size = options.total_batch_size();
    let rows = total_batch_size / options.seq_len();
    if options.gpus > rows.max(1) {
        let (total, seq, gpus) = (total_batch_size, options.seq_len(), options.gpus);
        return Err(PlanError::TooManyGpus { total, rows: rows.max(1), seq, gpus, micro: seq * gpus });
    }
    if !total_batch_size.is_multiple_of(micro) {
        let below = total_batch_size / micro * micro;
        let nearest = [below, below + micro].into_iter().filter(|batch| *batch > 0).collect();
        let (seq, gpus) = (options.seq_len(), options.gpus);
        let device_batch = device_batch_size;
        return Err(PlanError::TotalBatch {
            total: total_batch_size,
            micro,
            device_batch,
            seq,
            gpus,
            nearest,
        });
    }
    let tokens_per_param = options.language.ratio(options.english_tokenizer);
    let steps = tokens_per_param * model.params() / total_batch_size;
    if steps == 0 {
        let tokens = tokens_per_param * model.params();
        let nearest = (tokens / micro).max(1) * micro;
        return Err(PlanError::TooFewTokens { depth, tokens, total: total_batch_size, nearest });
    }
    let tokens = steps * total_batch_size;
    let usual_chars = options.language.chars_per_token(options.english_tokenizer);
    let chars_per_token = options.chars_per_token.unwrap_or(usual_chars);
    let characters = tokens as f64 * chars_per_token;
    let flops = model.flops_per_token() * tokens as f64;
    let recomputed = model.recomputed_flops_per_token(options.recompute) * tokens as f64;
    let grad_accum_steps = total_batch_size / micro;
    let scaling = scaling::scaling(&model, (flops + recomputed) / steps as f64, grad_accum_steps, options);
    let efficiency = scaling.map_or(1.0, |scaling| scaling.efficiency);
    let (pretraining, whole_run) = bills(depth, flops + recomputed, efficiency, options);
    Ok(Plan {
        depth,
        model,
        model_options: options.model.clone(),
        params: model.params(),
        tokens_per_param,
        tokens,
        steps,
        total_batch_size,
        device_batch_size,
        grad_accum_steps,
        chars_per_token,
        characters,
        shards: shards(characters),
        epochs: options.shards.map(|n| characters / ((n - 1) as f64 * CHARS_PER_SHARD as f64)),
        memory: memory(&model, device_batch_size, options),
        memory_available: available_memory(options),
        recompute: options.recompute,
        flops,
        scaling,
        pretraining,
        whole_run,
        learning_rates: LearningRates::of(options),
        suggestions: suggestions(&model, options),
    })
}

/// Returns the plans for the depths of the guides, d4 to d32, without those that do not fit, unless none fits.
pub fn all_depths(options: &PlanOptions) -> Result<Vec<Plan>, PlanError> {
    let (plans, mut errors): (Vec<_>, Vec<_>) =
        DEPTHS.iter().map(|depth| plan(*depth, options)).partition(Result::is_ok);
    if plans.is_empty() { Err(errors.swap_remove(0).unwrap_err()) } else { plans.into_iter().collect() }
}

/// Returns the plan of the deepest model whose whole run costs at most `budget` dollars.
pub fn largest_within(budget: f64, options: &PlanOptions) -> Result<Plan, PlanError> {
    in_range("--budget", budget, 0.0, 1e12)?;
    let plans: Vec<_> = (2..=DEEPEST).step_by(2).map(|depth| plan(depth, options)).collect();
    let affordable = |plan: &&Plan| plan.whole_run.dollars <= budget;
    if let Some(best) = plans.iter().flatten().rfind(affordable) {
        return Ok(best.clone());
    }
    match plans.iter().flatten().next() {
        Some(least) => Err(PlanError::Budget { budget, depth: least.depth, least: least.whole_run.dollars }),
        None => plans.into_iter().next().expect("2 to 64 is not empty"),
    }
}

/// Returns the requested device batch if it fits, else the largest power of two that fits and, if one does, divides the
/// total batch.
fn device_batch(depth: usize, model: &GptConfig, options: &PlanOptions) -> Result<usize, PlanError> {
    let usable = USABLE_MEMORY * available_memory(options);
    let needed = |batch| memory(model, batch, options).total();
    if needed(1) > usable {
        let fits = |depth: &usize| {
            options.config(*depth).is_ok_and(|model| memory(&model, 1, options).total() <= usable)
        };
        let nearest = match (1..depth).rev().find(fits) {
            Some(deepest) => format!("the deepest that fits is d{deepest}"),
            None => "choose a smaller vocabulary or a shorter sequence".to_string(),
        };
        return Err(PlanError::Memory { depth, needed: needed(1) / 1e9, usable: usable / 1e9, nearest });
    }
    let divides =
        |batch: &usize| options.total_batch_size().is_multiple_of(batch * options.seq_len() * options.gpus);
    let Some(device_batch) = options.device_batch_size else {
        let powers = (0..).map(|n| LARGEST_BATCH >> n).take_while(|batch| *batch > 0);
        let mut fitting = powers.filter(|batch| needed(*batch) <= usable).peekable();
        let largest = *fitting.peek().expect("1 fits");
        return Ok(fitting.find(divides).unwrap_or(largest));
    };
    if needed(device_batch) > usable {
        let bound = usable / memory(model, 1, options).activations; // an upper bound from the activations alone
        let fitting = || (1..=bound as usize).rev().filter(|batch| needed(*batch) <= usable);
        let largest = fitting().find(divides).or_else(|| fitting().next()).expect("1 fits");
        let (needed, usable) = (needed(device_batch) / 1e9, usable / 1e9);
        return Err(PlanError::DeviceBatch { depth, device_batch, needed, usable, largest });
    }
    Ok(device_batch)
}

fn memory(model: &GptConfig, device_batch: usize, options: &PlanOptions) -> Memory {
    match options.gpu {
        GpuModel::Cpu => Memory::cpu(model, device_batch, options.gpus, options.recompute),
        _ => Memory::gpu(model, device_batch, options.gpus, options.recompute),
    }
}

fn available_memory(options: &PlanOptions) -> f64 {
    1e9 * options.memory_gb.unwrap_or(options.gpu.figures().2)
}

/// Returns the number of shards with 10 % more text than needed, since documents differ; rounded up to tens.
fn shards(characters: f64) -> usize {
    let needed = (1.1 * characters / CHARS_PER_SHARD as f64).ceil() as usize;
    if needed <= 10 { needed.max(2) } else { needed.next_multiple_of(10) }
}

/// Returns the cost of pretraining and of the whole run, assuming that all stages use the GPUs equally well.
fn bills(depth: usize, flops: f64, efficiency: f64, options: &PlanOptions) -> (Bill, Bill) {
    let (peak, usual_price, _) = options.gpu.figures();
    let price = options.price.unwrap_or(usual_price) * options.gpus as f64;
    let bill = |hours| Bill { hours: hours / efficiency, dollars: hours / efficiency * price };
    let hours = flops / (peak * options.gpus as f64 * options.mfu) / 3600.0;
    let h100s = options.gpus as f64 * peak / GpuModel::H100.figures().0;
    let other_stages = match options.gpu {
        GpuModel::Cpu => 0.0, // there are no published runs on laptops, and their later stages are short
        _ => OTHER_STAGES_HOURS_A_LAYER * depth as f64 / h100s,
    };
    (bill(hours), bill(hours + other_stages))
}

fn suggestions(model: &GptConfig, options: &PlanOptions) -> Vec<String> {
    let mut lines = Vec::new();
    let usual_vocab = options.language.usual_vocab();
    if model.vocab_size != usual_vocab {
        lines.push(format!("usual vocabulary for this language: --vocab-size {usual_vocab}"));
    }
    lines.extend(rates::advice(options));
    match options.language {
        TextLanguage::En => {}
        TextLanguage::Zh => {
            if !(2049..=4096).contains(&options.seq_len()) {
                lines.push("for Chinese: --max-seq-len 3072 --total-batch-size 786432".to_string());
            }
            lines.push("text: 70–80 % Chinese, width and script normalised".to_string());
            lines.push("tokenizer: train on 5 billion characters".to_string());
        }
        TextLanguage::Mix => lines.push("text: 50 % English, 50 % Chinese".to_string()),
    }
    lines
}

#[cfg(test)]
mod tests;
