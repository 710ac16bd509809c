//! Mid-training: learns all tokens of conversations, packed into rows like pretraining's text (nanochat's
//! mid_train.py). The base model learns the chat's special tokens, multiple choice, tools and spelling before
//! finetuning.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use nanochat_tensor::{Comm, Device};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::base::grad_accum_steps;
use super::fit;
use super::run::{Learner, Point, Run, RunSettings, Training, micro_batches};
use super::source::SourceArgs;
use crate::chat::mixture::{Mixture, MixtureArgs};
use crate::chat::stream::ChatStream;
use crate::measure::loss_eval::bits_per_byte;
use crate::model::checkpoint::Stage;
use crate::model::gpt::Rates;
use crate::terminal::counted::counted;
use crate::terminal::flag_values;
use crate::train::schedule;

/// Settings of mid-training.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct MidSettings {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub mixture: MixtureArgs,
    /// Rows (sequences) in one forward pass [default: the base run's]
    #[arg(long, value_parser = flag_values::amount)]
    pub device_batch_size: Option<usize>,
    /// Tokens in one optimizer step [default: the base run's]
    #[arg(long, value_parser = flag_values::amount)]
    pub total_batch_size: Option<usize>,
    /// Steps to train [default: one epoch of all conversations]
    #[arg(long, value_parser = flag_values::steps)]
    pub num_iterations: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Fraction of the training over which the learning rates fall to 0
    #[arg(long, value_parser = flag_values::share, default_value_t = 0.2)]
    pub warmdown_ratio: f32,
    /// Measure bits per byte of the validation conversations every N steps (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 150)]
    pub eval_every: usize,
    /// Tokens of validation conversations to measure on
    #[arg(long, value_parser = flag_values::amount, default_value_t = 65_536)]
    pub eval_tokens: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

pub fn run(settings: &MidSettings, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let source = settings.source.load(base_dir, settings.run.model_tag.as_deref(), &[Stage::Base])?;
    let (tokenizer, config) = (source.tokenizer, source.model.config);
    let [device_batch_size, total_batch_size] = batch_sizes(settings, &source.folder)?;
    let rows = [device_batch_size, config.sequence_len];
    fit::check(&config, device_batch_size, settings.run.recompute, device, comm.world_size())?;
    let grad_accum_steps = grad_accum_steps(total_batch_size, rows[0].saturating_mul(rows[1]))?;
    let [train_mixture, val] = settings.mixture.open("mid", base_dir)?.map(Arc::new);

    let mut run = Run::open(base_dir, Stage::Mid, &source.tag, &settings.run, settings, device, comm)?;
    run.say(&format!("starting from {}", source.folder.display()));
    run.say_unused(&[&train_mixture, &val]);
    let (learner, position) = run.restore(&tokenizer, || source.model, settings.rates, 0.0)?;
    let seed = settings.run.seed;
    let stream = ChatStream::new(&train_mixture, &tokenizer, rows, seed, position.as_ref())?;
    let conversations = train_mixture.len();
    let of = counted(conversations, "conversation");
    run.say(&format!("{}: {of}, steps of {total_batch_size} tokens", source.tag));
    run.note_idle(grad_accum_steps);
    run.section.results.insert("conversations".into(), conversations.into());
    run.show_progress(settings.num_iterations.unwrap_or(run.first_step() + 1));
    run.train(Mid { settings, learner, stream, val, rows, total_batch_size, grad_accum_steps })
}

struct Mid<'a> {
    settings: &'a MidSettings,
    learner: Learner<'a>,
    stream: ChatStream,
    val: Arc<Mixture>,
    rows: [usize; 2],
    total_batch_size: usize,
    grad_accum_steps: usize,
}

impl Mid<'_> {
    /// Returns the fraction of the run that is done after `step` steps.
    fn progress(&self, step: usize) -> f64 {
        match self.settings.num_iterations {
            Some(n) => step as f64 / n.max(1) as f64,
            None => self.stream.progress(),
        }
    }
}

impl Training for Mid<'_> {
    fn learner(&self) -> &Learner<'_> {
        &self.learner
    }

    fn position(&self) -> Value {
        json!(self.stream.state())
    }

    fn is_done(&self, step: usize) -> bool {
        self.progress(step) >= 1.0
    }

    fn measure(&mut self, run: &mut Run, point: Point) -> Result<()> {
        let step = point.step;
        if !self.val.is_empty() && point.is_due(self.settings.eval_every) {
            let bpb = chat_bpb(&self.learner, &self.val, self.rows, self.settings.eval_tokens, &run.comm)?;
            run.log_measured(step, "chat_bpb", "chat_bpb", bpb)?;
            run.section.metrics.insert("chat bpb".into(), bpb.into());
        }
        if point.last {
            run.section.results.insert("steps".into(), step.into());
            run.section.results.insert("tokens".into(), (step * self.total_batch_size).into());
        }
        Ok(())
    }

    fn step(&mut self, run: &mut Run, step: usize) -> Result<()> {
        let scheduled = schedule::by_progress(step, self.progress(step), self.settings.warmdown_ratio);
        let stream = &mut self.stream;
        let micro_batches = micro_batches(&run.comm, self.grad_accum_steps, || stream.next_batch())?;
        if self.settings.num_iterations.is_none() {
            run.expect_steps(((step + 1) as f64 / stream.progress()).ceil() as usize);
        }
        run.learn(step, &mut self.learner, &micro_batches, self.total_batch_size, scheduled, || ())
    }
}

/// Returns the rows of a forward pass and the tokens of a step: as given, or as in the base run.
fn batch_sizes(settings: &MidSettings, source: &Path) -> Result<[usize; 2]> {
    let state = std::fs::read(source.join("train_state.json")).unwrap_or_default();
    let state: Value = serde_json::from_slice(&state).unwrap_or_default();
    let size = |given: Option<usize>, name: &str| {
        let base = state["settings"][name].as_u64().map(|size| size as usize);
        given.or(base).with_context(|| {
            let flag = name.replace('_', "-");
            format!("{} does not say the base run's {name}; give --{flag}", source.display())
        })
    };
    Ok([
        size(settings.device_batch_size, "device_batch_size")?,
        size(settings.total_batch_size, "total_batch_size")?,
    ])
}

/// Returns the bits per byte over `tokens` tokens of the mixture in a fixed order, or over all of it if that is less.
fn chat_bpb(
    learner: &Learner,
    mixture: &Arc<Mixture>,
    rows: [usize; 2],
    tokens: usize,
    comm: &Comm,
) -> Result<f64> {
    let Learner { tokenizer, model, .. } = learner;
    let mut stream = ChatStream::new(mixture, tokenizer, rows, 0, None)?;
    let next = |batch| (batch == 0 || stream.progress() < 1.0).then(|| stream.next_batch());
    let batches = (0..tokens.div_ceil(rows[0] * rows[1]).max(1)).map_while(next);
    Ok(bits_per_byte(model, batches, &tokenizer.byte_lengths(), comm)?)
}
