//! Supervised finetuning on conversations: only what the assistant says is learned (nanochat's chat_sft.py).

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use nanochat_tensor::profile::part;
use nanochat_tensor::{Device, Tape};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fit;
use super::run::{Run, RunSettings};
use crate::chat_loader::ChatLoader;
use crate::checkpoint::{self, Stage};
use crate::conversation::{Conversation, read_conversations};
use crate::gpt::Gpt;
use crate::optim::{Optimizer, Rates};
use crate::report::{Column, Section};
use crate::schedule::Schedule;
use crate::train::{self, Diverged};
use crate::values;

/// Settings of supervised finetuning.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct SftSettings {
    /// Step of the base model to start from [default: its last]
    #[arg(long)]
    pub step: Option<usize>,
    /// Conversations to learn, JSON lines (.gz and .zst too); may be repeated
    /// [default: {base-dir}/chat_data/train.jsonl]
    #[arg(long, value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// Conversations to measure the loss on [default: {base-dir}/chat_data/test.jsonl, if there]
    #[arg(long, value_name = "FILE")]
    pub val_data: Option<PathBuf>,
    /// Conversations in one forward pass
    #[arg(long, default_value_t = 4)]
    pub device_batch_size: usize,
    /// Conversations in one optimizer step
    #[arg(long, default_value_t = 32)]
    pub target_examples_per_step: usize,
    /// Times to go through the conversations
    #[arg(long, default_value_t = 1.0)]
    pub num_epochs: f64,
    /// Steps to train; wins over the epochs
    #[arg(long)]
    pub num_iterations: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Share of the rates to start with; they fall to 0 in a straight line
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.02)]
    pub init_lr_frac: f32,
    /// Measure the validation loss every N steps (0: at the end only)
    #[arg(long, default_value_t = 100)]
    pub eval_every: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

/// Conversations of the validation file that are measured.
const VAL_CONVERSATIONS: usize = 256;

pub fn run(settings: &SftSettings, base_dir: &Path, device: &Device) -> Result<()> {
    let grad_accum_steps = grad_accum_steps(settings)?;
    let source = checkpoint::find(base_dir, Stage::Base, settings.run.model_tag.as_deref(), settings.step)?;
    let tag = source
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or("model")
        .to_string();
    let source = checkpoint::load_folder(&source)?;
    let (tokenizer, config) = (source.tokenizer, source.model.config);
    fit::check(&config, settings.device_batch_size, settings.run.recompute, device)?;
    let chat_data = base_dir.join("chat_data");
    let files = match settings.data.as_slice() {
        [] => vec![chat_data.join("train.jsonl")],
        files => files.to_vec(),
    };
    let conversations = read_all(&files)?;
    let val_file =
        settings.val_data.clone().or_else(|| Some(chat_data.join("test.jsonl")).filter(|p| p.exists()));
    let val = val_file.map(|file| read_all(&[file])).transpose()?.unwrap_or_default();

    let mut run = Run::open(base_dir, Stage::Sft, &tag, &settings.run, settings)?;
    let (mut model, mut optimizer, position) =
        run.restore(&tokenizer, device, || source.model, |model| Optimizer::new(model, settings.rates, 0.0))?;
    model.recompute = settings.run.recompute;
    let rows = [settings.device_batch_size, config.sequence_len];
    let mut loader =
        ChatLoader::new(&conversations, &tokenizer, rows, [0, 1], settings.run.seed, position.as_ref())?;
    let fitted = loader.fitted();
    let examples = settings.num_epochs * fitted.kept as f64;
    let num_iterations =
        settings.num_iterations.unwrap_or((examples / settings.target_examples_per_step as f64) as usize);
    if num_iterations == 0 {
        bail!(
            "{} conversations are less than one step of {}",
            fitted.kept,
            settings.target_examples_per_step
        );
    }
    let schedule = Schedule::Linear { num_iterations, init_lr_frac: settings.init_lr_frac };
    eprintln!(
        "{tag}: {} conversations ({} cut to the model's length, {} left out), {num_iterations} steps of {}",
        fitted.kept, fitted.cut, fitted.skipped, settings.target_examples_per_step
    );
    let mut section = Section { column: Some(Column::Sft), ..Section::new("Chat finetuning") };
    section.results.insert("conversations".into(), fitted.kept.into());
    run.show_progress("sft", num_iterations);

    for step in run.first_step()..=num_iterations {
        let last = step == num_iterations;
        if run.is_save_due(step, last) {
            run.save(step, &model, &tokenizer, &optimizer, json!(loader.state()))?;
        }
        if run.is_interrupted() && !last {
            return Err(run.interrupted(step));
        }
        if !val.is_empty() && (last || (settings.eval_every > 0 && step.is_multiple_of(settings.eval_every)))
        {
            let mut loader = ChatLoader::new(&val, &tokenizer, rows, [0, 1], 0, None)?;
            let loss = validation_loss(&model, &mut loader);
            if !loss.is_finite() {
                return Err(run.diverged(step, Diverged::in_evaluation()));
            }
            run.metrics.log(step as u64, &[("val_loss", loss)])?;
            run.say(&format!("step {step}: validation loss {loss:.4}"));
            section.metrics.insert("val loss".into(), loss.into());
        }
        if last {
            break;
        }
        let started = Instant::now();
        run.begin_step(step, device);
        let feed = || (0..grad_accum_steps).map(|_| loader.next_batch()).collect::<Vec<_>>();
        let micro_batches = part("feeding", feed);
        let moment = schedule.at(step);
        let result = train::step(&mut model, &mut optimizer, &micro_batches, moment)
            .map_err(|diverged| run.diverged(step, diverged))?;
        let tokens = micro_batches.iter().map(|batch| batch.inputs.len()).sum();
        run.log_step(step, result, tokens, started.elapsed().as_secs_f64(), moment.lr_multiplier)?;
    }
    run.finish(base_dir, section)
}

fn grad_accum_steps(settings: &SftSettings) -> Result<usize> {
    let (total, rows) = (settings.target_examples_per_step, settings.device_batch_size);
    if rows == 0 || total == 0 || !total.is_multiple_of(rows) {
        bail!("--target-examples-per-step {total} must be a multiple of --device-batch-size {rows}");
    }
    Ok(total / rows)
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Conversation>> {
    let mut all = Vec::new();
    for file in files {
        for conversation in read_conversations(file)? {
            all.push(conversation?.1);
        }
    }
    Ok(all)
}

/// Mean nll over the assistant's tokens.
fn validation_loss(model: &Gpt, loader: &mut ChatLoader) -> f64 {
    let (mut loss, mut weight, mut seen) = (0.0, 0.0, 0);
    while seen < VAL_CONVERSATIONS.min(loader.fitted().kept) {
        let batch = loader.next_batch();
        loss += f64::from(model.loss_sum(&Tape::off(), &batch).0.item());
        weight += batch.weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        seen += batch.shape[0];
    }
    loss / weight
}
