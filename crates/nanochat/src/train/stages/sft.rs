//! Supervised finetuning on conversations: only the assistant's tokens are learned (nanochat's chat_sft.py).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use nanochat_tensor::{Comm, Device, Tape};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::epochs::Epochs;
use super::fit;
use super::run::{Learner, Point, Run, RunSettings, Training, micro_batches};
use super::source::SourceArgs;
use super::task_eval::{TaskEval, TaskEvalArgs};
use crate::chat::loader::{ChatLoader, ChatLoaderError, Fitted};
use crate::chat::mixture::{Mixture, MixtureArgs};
use crate::model::batch::Batch;
use crate::model::checkpoint::Stage;
use crate::model::gpt::Rates;
use crate::ranks;
use crate::terminal::counted::counted;
use crate::terminal::flag_values;
use crate::train::schedule::Schedule;

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
    #[arg(long, value_parser = flag_values::amount, default_value_t = 4)]
    pub device_batch_size: usize,
    /// Conversations in one optimizer step
    #[arg(long, value_parser = flag_values::amount, default_value_t = 32)]
    pub target_examples_per_step: usize,
    /// Epochs: how often to go through the conversations
    #[arg(long, value_parser = flag_values::positive, default_value_t = 1.0)]
    pub num_epochs: f64,
    /// Steps to train; takes precedence over --num-epochs
    #[arg(long, value_parser = flag_values::steps)]
    pub num_iterations: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Initial learning rates as a fraction of the full ones; they fall linearly to 0
    #[arg(long, value_parser = flag_values::at_least_zero, default_value_t = 0.02)]
    pub init_lr_frac: f32,
    /// Measure the validation loss every N steps (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 100)]
    pub eval_every: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub task_eval: TaskEvalArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

/// The number of conversations of the validation file that are measured.
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
    let (learner, position) = run.restore(&tokenizer, || source.model, settings.rates, 0.0)?;
    let rows = [settings.device_batch_size, config.sequence_len];
    let loader = ChatLoader::new(&train_mixture, &tokenizer, rows, settings.run.seed, position.as_ref())?;
    let schedule = Schedule::Linear { num_iterations, init_lr_frac: settings.init_lr_frac };
    run.say(&format!(
        "{tag}: {}, {} of {}",
        counted(conversations, "conversation"),
        counted(num_iterations, "step"),
        settings.target_examples_per_step
    ));
    run.note_idle(grad_accum_steps);
    run.section.results.insert("conversations".into(), conversations.into());
    run.show_progress(num_iterations);
    run.train(Sft {
        settings,
        learner,
        loader,
        schedule,
        val,
        task_eval,
        rows,
        grad_accum_steps,
        num_iterations,
    })
}

struct Sft<'a> {
    settings: &'a SftSettings,
    learner: Learner<'a>,
    loader: ChatLoader,
    schedule: Schedule,
    val: Arc<Mixture>,
    task_eval: TaskEval,
    rows: [usize; 2],
    grad_accum_steps: usize,
    num_iterations: usize,
}

impl Training for Sft<'_> {
    fn learner(&self) -> &Learner<'_> {
        &self.learner
    }

    fn position(&self) -> Value {
        json!(self.loader.state())
    }

    fn is_done(&self, step: usize) -> bool {
        step >= self.num_iterations
    }

    fn measure(&mut self, run: &mut Run, point: Point) -> Result<()> {
        if !self.val.is_empty() && point.is_due(self.settings.eval_every) {
            let loss = validation_loss(&self.learner, &self.val, self.rows, &run.comm)?;
            run.log_measured(point.step, "val_loss", "validation loss", loss)?;
            run.section.metrics.insert("val loss".into(), loss.into());
        }
        self.task_eval.measure(run, point, &self.learner)?;
        if point.last {
            tell_fitted(run, self.loader.fitted());
        }
        Ok(())
    }

    fn step(&mut self, run: &mut Run, step: usize) -> Result<()> {
        let (device, [b, t]) = (self.learner.model.device(), self.rows);
        let mut tokens = 0;
        let next = || {
            let batch = self.loader.next_batch()?.regular(&device, b, t);
            tokens += batch.inputs.len();
            Ok::<_, ChatLoaderError>(batch)
        };
        let micro_batches = micro_batches(&run.comm, self.grad_accum_steps, next)?;
        let scheduled = self.schedule.at(step);
        run.learn(step, &mut self.learner, &micro_batches, tokens, scheduled, || ())
    }
}

fn grad_accum_steps(settings: &SftSettings) -> Result<usize> {
    let (total, rows) = (settings.target_examples_per_step, settings.device_batch_size);
    if rows == 0 || total == 0 || !total.is_multiple_of(rows) {
        bail!("--target-examples-per-step {total} must be a multiple of --device-batch-size {rows}");
    }
    Ok(total / rows)
}

fn num_iterations(settings: &SftSettings, conversations: usize) -> Result<usize> {
    let (num_epochs, per_step) = (settings.num_epochs, settings.target_examples_per_step);
    let smaller_step = "--target-examples-per-step and --device-batch-size";
    Epochs { num_epochs, per_step, item: "conversation", smaller_step }
        .steps(conversations, settings.num_iterations)
}

fn tell_fitted(run: &mut Run, Fitted { kept, cut, skipped }: Fitted) {
    let read = kept + skipped;
    run.say(&format!(
        "{} read, {cut} cut to the model's length, {skipped} left out for having nothing to learn",
        counted(read, "conversation")
    ));
    run.section.results.insert("cut to the model's length".into(), cut.into());
    run.section.results.insert("left out".into(), skipped.into());
}

/// Returns the mean nll over the assistant's tokens, always of the same conversations.
fn validation_loss(
    learner: &Learner,
    mixture: &Arc<Mixture>,
    rows: [usize; 2],
    comm: &Comm,
) -> Result<f64, ChatLoaderError> {
    let Learner { tokenizer, model, .. } = learner;
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
