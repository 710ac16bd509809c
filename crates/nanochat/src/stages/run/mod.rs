//! What the stages share around their loops: where a run lives, resuming, saving, interrupts, progress.

mod folder;
mod interrupt;
mod log;
mod progress;
mod replaced;
mod settings;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nanochat_tensor::{Comm, Device};
use nanochat_tokenizer::Tokenizer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::folder::{Writer, cannot_go_on, open_folder};
use self::interrupt::Interrupt;
pub use self::interrupt::{ignores_hangup, watch_signals};
use self::progress::Progress;
pub use self::settings::RunSettings;
use self::settings::{kept, recorded};
use crate::checkpoint::{Checkpoints, Stage, TrainState, load_folder};
use crate::curve::stage_charts;
use crate::gpt::Gpt;
use crate::metrics::{METRICS_FILE, read_metrics};
use crate::optim::Optimizer;
use crate::report::{self, Section};
use crate::train::Diverged;

/// The run was asked to stop by a signal; everything is saved.
#[derive(Debug, thiserror::Error)]
#[error("stopped at step {step}; saved in {folder}")]
pub struct Interrupted {
    pub step: usize,
    pub folder: String,
    /// The code that the process shall end with: 128 and the signal's number.
    pub code: u8,
}

/// A run under way, as one of its ranks. The first one writes files and speaks to the user.
pub struct Run {
    pub comm: Comm,
    pub checkpoints: Checkpoints,
    model_tag: String,
    /// Where it goes on; None: from the beginning.
    pub resumed: Option<TrainState>,
    /// The first rank's.
    writer: Option<Writer>,
    settings: RunSettings,
    all_settings: Value,
    /// A checkpoint saved by this process whose weights have not given a finite loss yet.
    unproven: Option<usize>,
    interrupt: Interrupt,
    /// The ranks have agreed to stop.
    stopping: bool,
    /// The step to save at is the last one.
    at_end: bool,
    progress: Progress,
    seconds_before: f64,
    started: Instant,
}

/// Whether `step` is one of every `every`; 0: none is.
pub fn is_due(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

impl Run {
    /// Opens the run's folder for this process alone and finds the checkpoint to go on from.
    pub fn open(
        base_dir: &Path,
        stage: Stage,
        model_tag: &str,
        settings: &RunSettings,
        all_settings: &impl Serialize,
        device: &Device,
        comm: &Comm,
    ) -> Result<Run> {
        let only_bf16 = device.properties().only_recipe.is_some();
        // Through text, which keeps 0.02 as 0.02 where a value would hold the f32's 0.0199999995….
        let all_settings: Value = serde_json::from_str(&serde_json::to_string(all_settings)?)?;
        let all_settings = recorded(all_settings, only_bf16)?;
        let checkpoints = Checkpoints::new(base_dir, stage, model_tag);
        let (mut resumed, mut writer) = (None, None);
        if comm.is_first() {
            let (state, opened) = open_folder(&checkpoints, settings, &kept(&all_settings, only_bf16))?;
            if state.is_none() {
                report::begin(base_dir, model_tag, stage)?;
            }
            (resumed, writer) = (state, Some(opened));
        }
        // The others learn from the first where to go on: they must not look while it tidies up.
        let resumed: Option<TrainState> =
            serde_json::from_slice(&comm.broadcast_bytes(0, serde_json::to_vec(&resumed)?))?;
        let seconds_before = resumed.as_ref().map_or(0.0, |state| state.seconds);
        Ok(Run {
            comm: comm.clone(),
            checkpoints,
            model_tag: model_tag.into(),
            resumed,
            writer,
            settings: settings.clone(),
            all_settings,
            unproven: None,
            interrupt: Interrupt::hold(comm.is_first())?,
            stopping: false,
            at_end: false,
            progress: Progress::hidden(),
            seconds_before,
            started: Instant::now(),
        })
    }

    /// Weights, optimizer and loader position (None: the beginning) to start with: the resumed
    /// checkpoint's, or new ones.
    pub fn restore<Position: DeserializeOwned>(
        &self,
        tokenizer: &Tokenizer,
        device: &Device,
        new_model: impl FnOnce() -> Gpt,
        new_optimizer: impl Fn(&Gpt) -> Optimizer,
    ) -> Result<(Gpt, Optimizer, Option<Position>)> {
        let Some(state) = &self.resumed else {
            let model = new_model().to_device(device)?;
            let optimizer = new_optimizer(&model);
            return Ok((model, optimizer, None));
        };
        let folder = self.checkpoints.folder(state.step);
        let read = || -> Result<_> {
            let loaded = load_folder(&folder)?.to_device(device)?;
            let mut optimizer = new_optimizer(&loaded.model);
            self.checkpoints.load_optimizer(state, &mut optimizer)?;
            let position = serde_json::from_value(state.position.clone())
                .context("train_state.json has no loader position")?;
            Ok((loaded, optimizer, position))
        };
        let (loaded, optimizer, position) =
            read().with_context(|| cannot_go_on(&self.checkpoints, state.step))?;
        if loaded.tokenizer.to_json() != tokenizer.to_json() {
            bail!(
                "the tokenizer is not the one that {} was trained with; put that one back or start anew with --overwrite",
                folder.display()
            );
        }
        Ok((loaded.model, optimizer, Some(position)))
    }

    /// The step to begin with.
    pub fn first_step(&self) -> usize {
        self.resumed.as_ref().map_or(0, |state| state.step)
    }

    /// Shows progress towards `num_iterations` steps from here on.
    pub fn show_progress(&mut self, name: &str, num_iterations: usize) {
        if self.writer.is_some() {
            self.progress = Progress::new(name, self.first_step(), num_iterations);
        }
        self.started = Instant::now();
    }

    /// The run turns out to take this many steps.
    pub fn expect_steps(&mut self, num_iterations: usize) {
        if self.writer.is_some() {
            self.progress.expect_steps(num_iterations);
        }
    }

    /// Seconds of training, over all sessions of the run.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Whether any rank has been asked to stop: as of the last `is_save_due`, so that all stop at one step.
    pub fn is_interrupted(&self) -> bool {
        self.stopping
    }

    /// Whether `step`, the number of steps done, is one to save at. The ranks ask this together, once a step.
    pub fn is_save_due(&mut self, step: usize, last: bool) -> bool {
        let mut asked = [f64::from(u8::from(self.interrupt.asked().is_some()))];
        self.comm.sum_f64(&mut asked);
        self.stopping = asked[0] > 0.0;
        self.at_end = last;
        let new = step > self.first_step() || self.resumed.is_none();
        new && (last || self.stopping || (step > 0 && is_due(step, self.settings.save_every)))
    }

    /// Says so where a step's `n` micro-batches leave some ranks waiting for the others.
    pub fn note_idle(&self, n: usize) {
        let world = self.comm.world_size();
        if !n.is_multiple_of(world) {
            self.say(&format!(
                "{n} micro-batches a step do not divide by {world} ranks, so some wait for others; with another --device-batch-size none does"
            ));
        }
    }

    pub fn save(
        &mut self,
        step: usize,
        model: &Gpt,
        tokenizer: &Tokenizer,
        optimizer: &Optimizer,
        position: Value,
    ) -> Result<()> {
        let state = TrainState {
            step,
            optimizer_steps: optimizer.steps(),
            position,
            settings: self.all_settings.clone(),
            seconds: self.seconds(),
            finished: Some(self.at_end),
        };
        let tensors = optimizer.tensors();
        self.unproven = Some(step);
        if self.writer.is_some() {
            let folder = self.checkpoints.save(model, tokenizer, &tensors, &state)?;
            self.say(&format!("step {step}: saved {}", folder.display()));
        }
        Ok(())
    }

    /// The sentence of a run whose loss is no number any more. A checkpoint of these very weights goes:
    /// the last one must be one to go on from.
    pub fn diverged(&mut self, step: usize, diverged: Diverged) -> anyhow::Error {
        self.progress.finish();
        if self.unproven.take() == Some(step)
            && self.writer.is_some()
            && let Err(error) = self.checkpoints.delete(step)
        {
            return error.into();
        }
        let last = match self.checkpoints.steps().last() {
            Some(last) => format!("the last checkpoint is of step {last}"),
            None => "there is no checkpoint".into(),
        };
        anyhow::Error::new(diverged).context(format!("training stopped at step {step} ({last})"))
    }

    /// Deletes checkpoints beyond `--keep`, once the last one is known to be sound.
    fn prune(&mut self) -> Result<()> {
        match self.unproven.take() {
            Some(_) if self.writer.is_some() => Ok(self.checkpoints.prune(self.settings.keep)?),
            _ => Ok(()),
        }
    }

    /// The sentence of an interrupted run.
    pub fn interrupted(&self, step: usize) -> anyhow::Error {
        self.progress.finish();
        let folder = self.checkpoints.folder(step).display().to_string();
        // Another rank may have been asked.
        let code = interrupt::code(self.interrupt.asked().unwrap_or(signal_hook::consts::SIGINT));
        Interrupted { step, folder, code }.into()
    }

    /// Ends a run that reached its horizon: its section of the report, with settings and curves.
    pub fn finish(&mut self, base_dir: &Path, mut section: Section) -> Result<()> {
        self.end_recording()?;
        self.progress.finish();
        self.prune()?;
        if self.writer.is_none() {
            return Ok(());
        }
        section.seconds = self.seconds();
        section.settings = self.all_settings.as_object().cloned().unwrap_or_default();
        let metrics = read_metrics(&self.checkpoints.dir().join(METRICS_FILE))?;
        let folder = report::run_folder(base_dir, &self.model_tag);
        section.charts = stage_charts(&section.title, &metrics, &folder)
            .with_context(|| format!("failed to draw into {}", folder.display()))?;
        report::log_section(base_dir, &self.model_tag, &section)?;
        eprintln!("{} took {:.0} s", section.title, section.seconds);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.interrupt.release();
    }
}
