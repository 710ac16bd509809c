//! Supervised finetuning on conversations: only what the assistant says is learned (nanochat's chat_sft.py).

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use nanochat_tensor::profile::part;
use nanochat_tensor::{Comm, Device, Tape};
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fit;
use super::run::{Run, RunSettings, is_due};
use super::source::SourceArgs;
use super::task_eval::{TaskEval, TaskEvalArgs};
use crate::batch::Batch;
use crate::chat_loader::{ChatLoader, ChatLoaderError, Fitted};
use crate::checkpoint::Stage;
use crate::counted::counted;
use crate::gpt::Gpt;
use crate::gpt::Rates;
use crate::mixture::{Mixture, MixtureArgs};
use crate::optim::Optimizer;
use crate::ranks;
use crate::report::{Column, Section};
use crate::schedule::Schedule;
use crate::train;
use crate::values;

/// Settings of supervised finetuning.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct SftSettings {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub mixture: MixtureArgs,
    /// Conversations in one forward pass
    #[arg(long, value_parser = values::amount, default_value_t = 4)]
    pub device_batch_size: usize,
    /// Conversations in one optimizer step
    #[arg(long, value_parser = values::amount, default_value_t = 32)]
    pub target_examples_per_step: usize,
    /// Times to go through the conversations
    #[arg(long, value_parser = values::positive, default_value_t = 1.0)]
    pub num_epochs: f64,
    /// Steps to train; wins over the epochs
    #[arg(long, value_parser = values::steps)]
    pub num_iterations: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Share of the rates to start with; they fall to 0 in a straight line
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.02)]
    pub init_lr_frac: f32,
    /// Measure the validation loss every N steps (0: at the end only)
    #[arg(long, value_parser = values::amount, default_value_t = 100)]
    pub eval_every: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub task_eval: TaskEvalArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

/// Conversations of the validation file that are measured.
const VAL_CONVERSATIONS: usize = 256;

pub fn run(settings: &SftSettings, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let grad_accum_steps = grad_accum_steps(settings)?;
    let tag = settings.run.model_tag.as_deref();
    let source = settings.source.load(base_dir, tag, &[Stage::Mid, Stage::Base])?;
    let (tokenizer, config, tag) = (source.tokenizer, source.model.config, source.tag);
    fit::check(&config, settings.device_batch_size, settings.run.recompute, device, comm.world_size())?;
    let [train_mixture, val] = settings.mixture.open("sft", base_dir)?.map(Arc::new);
    let task_eval = TaskEval::open(&settings.task_eval, base_dir)?;
    let conversations = train_mixture.len();
    let num_iterations = num_iterations(settings, conversations)?;

    let mut run = Run::open(base_dir, Stage::Sft, &tag, &settings.run, settings, device, comm)?;
    run.say(&format!("starting from {}", source.folder.display()));
    run.say_unused(&[&train_mixture, &val]);
    let new_optimizer = |model: &Gpt| Optimizer::new(model, settings.rates, 0.0, comm);
    let (mut model, mut optimizer, position) =
        run.restore(&tokenizer, device, || source.model, new_optimizer)?;
    model.recompute = settings.run.recompute;
    model.recipe = settings.run.precision.recipe(&model.device());
    let rows = [settings.device_batch_size, config.sequence_len];
    let mut loader = ChatLoader::new(&train_mixture, &tokenizer, rows, settings.run.seed, position.as_ref())?;
    let schedule = Schedule::Linear { num_iterations, init_lr_frac: settings.init_lr_frac };
    run.say(&format!(
        "{tag}: {}, {} of {}",
        counted(conversations, "conversation"),
        counted(num_iterations, "step"),
        settings.target_examples_per_step
    ));
    run.note_idle(grad_accum_steps);
    let mut section = Section { column: Some(Column::Sft), ..Section::new("Chat finetuning") };
    section.results.insert("conversations".into(), conversations.into());
    run.show_progress("sft", num_iterations);

    for step in run.first_step()..=num_iterations {
        let last = step == num_iterations;
        if run.is_save_due(step, last) {
            run.save(step, &model, &tokenizer, &optimizer, json!(loader.state()))?;
        }
        if run.is_interrupted() && !last {
            return Err(run.interrupted(step));
        }
        let due = last || is_due(step, settings.eval_every);
        if !val.is_empty() && due {
            let loss = validation_loss(&model, &tokenizer, &val, rows, comm)?;
            run.log_measured(step, "val_loss", "validation loss", loss)?;
            section.metrics.insert("val loss".into(), loss.into());
        }
        task_eval.measure(&mut run, [step, num_iterations], &model, &tokenizer)?;
        if last {
            tell_fitted(&run, loader.fitted(), &mut section);
            break;
        }
        let started = Instant::now();
        run.begin_step(step, device);
        let mut tokens = 0;
        let next = |_| {
            let batch = loader.next_batch()?.regular(device, rows[0], rows[1]);
            tokens += batch.inputs.len();
            Ok(batch)
        };
        let all = (0..grad_accum_steps).map(next);
        let feed = || ranks::mine_of(comm, all).collect::<Result<Vec<_>, ChatLoaderError>>();
        let micro_batches = part("feeding", feed)?;
        let scheduled = schedule.at(step);
        let result = train::step(&mut model, &mut optimizer, &micro_batches, scheduled)
            .map_err(|diverged| run.diverged(step, diverged))?;
        run.log_step(step, result, tokens, started.elapsed().as_secs_f64(), scheduled.lr_multiplier)?;
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

fn num_iterations(settings: &SftSettings, conversations: usize) -> Result<usize> {
    let per_step = settings.target_examples_per_step;
    let examples = settings.num_epochs * conversations as f64;
    match settings.num_iterations.unwrap_or((examples / per_step as f64) as usize) {
        0 => bail!(
            "a step takes {per_step} conversations, but {} times {} is less; say --num-epochs {}, or lower --target-examples-per-step and --device-batch-size",
            settings.num_epochs,
            counted(conversations, "conversation"),
            per_step.div_ceil(conversations.max(1))
        ),
        iterations if iterations as u64 > values::MOST_STEPS => {
            bail!(
                "--num-epochs {} are {iterations:.2e} steps, and {} are the most",
                settings.num_epochs,
                values::MOST_STEPS
            )
        }
        iterations => Ok(iterations),
    }
}

fn tell_fitted(run: &Run, Fitted { kept, cut, skipped }: Fitted, section: &mut Section) {
    let read = kept + skipped;
    run.say(&format!(
        "{} read, {cut} cut to the model's length, {skipped} left out for having nothing to learn",
        counted(read, "conversation")
    ));
    section.results.insert("cut to the model's length".into(), cut.into());
    section.results.insert("left out".into(), skipped.into());
}

/// Mean nll over the assistant's tokens, of the same conversations each time.
fn validation_loss(
    model: &Gpt,
    tokenizer: &Tokenizer,
    mixture: &Arc<Mixture>,
    rows: [usize; 2],
    comm: &Comm,
) -> Result<f64, ChatLoaderError> {
    let mut loader = ChatLoader::new(mixture, tokenizer, rows, 0, None)?;
    let batches = (0..VAL_CONVERSATIONS.min(mixture.len()).div_ceil(rows[0])).map(|_| loader.next_batch());
    let measured = |batch: Result<Batch, ChatLoaderError>| {
        let batch = batch?.regular(&model.device(), rows[0], rows[1]);
        let weight = batch.weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        Ok((f64::from(model.loss_sum(&Tape::off(), &batch).0.item()), weight))
    };
    let mine = ranks::mine_of(comm, batches).map(measured).collect::<Result<Vec<_>, ChatLoaderError>>()?;
    let all = ranks::gather(comm, mine);
    let sum = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).sum::<f64>();
    Ok(sum(|measured| measured.0) / sum(|measured| measured.1))
}
