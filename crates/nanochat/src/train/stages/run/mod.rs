//! The parts that all stages share: the run's folder, resuming, the loop over steps with saving, interrupts and
//! measuring, and the report.

mod folder;
mod interrupt;
mod log;
mod progress;
mod replaced;
mod saving;
mod settings;
mod training;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use nanochat_tensor::{Comm, Device};
use serde::Serialize;
use serde_json::Value;

use self::folder::{RunWriter, open_folder};
use self::interrupt::Interrupt;
pub use self::interrupt::{ignores_hangup, watch_signals};
use self::progress::Progress;
pub use self::settings::RunSettings;
use self::settings::{kept, recorded};
pub use self::training::{Learner, Point, Training, micro_batches};
use crate::model::checkpoint::{Checkpoints, Stage, TrainState};
use crate::report::curve::stage_charts;
use crate::report::metrics::{METRICS_FILE, read_metrics};
use crate::report::{self, Section};

/// The error of a run that a signal asked to stop; everything is saved.
#[derive(Debug, thiserror::Error)]
#[error("stopped at step {step}; saved in {folder}")]
pub struct Interrupted {
    pub step: usize,
    pub folder: String,
    /// The exit code for the process: 128 plus the signal's number.
    pub code: u8,
}

/// One rank of an active run. The first rank writes files and talks to the user.
pub struct Run {
    pub comm: Comm,
    pub checkpoints: Checkpoints,
    /// The stage's section of the report, filled during the run.
    pub section: Section,
    stage: Stage,
    base_dir: PathBuf,
    model_tag: String,
    device: Device,
    /// The state that the run resumed from; None if it started from the beginning.
    pub resumed: Option<TrainState>,
    /// The open files; only on the first rank.
    writer: Option<RunWriter>,
    settings: RunSettings,
    all_settings: Value,
    /// The step of a checkpoint saved by this process whose weights have not given a finite loss yet.
    unproven: Option<usize>,
    interrupt: Interrupt,
    progress: Progress,
    seconds_before: f64,
    started: Instant,
    step_started: Instant,
}

/// Returns the title of a stage's section in the report.
fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::Base => "Base training",
        Stage::Mid => "Mid-training",
        Stage::Sft => "Chat finetuning",
        Stage::Rl => "Reinforcement learning",
    }
}

impl Run {
    /// Opens the run's folder for this process alone and finds the checkpoint to resume.
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
        // Converted through text, which keeps 0.02 as 0.02; a direct conversion would give the f32's 0.0199999995….
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
        // The other ranks get the state from the first: they must not look at the folder while it tidies up.
        let resumed: Option<TrainState> =
            serde_json::from_slice(&comm.broadcast_bytes(0, serde_json::to_vec(&resumed)?))?;
        let seconds_before = resumed.as_ref().map_or(0.0, |state| state.seconds);
        Ok(Run {
            comm: comm.clone(),
            checkpoints,
            section: Section { column: Some(stage.into()), ..Section::new(title(stage)) },
            stage,
            base_dir: base_dir.into(),
            model_tag: model_tag.into(),
            device: device.clone(),
            resumed,
            writer,
            settings: settings.clone(),
            all_settings,
            unproven: None,
            interrupt: Interrupt::hold(comm.is_first())?,
            progress: Progress::hidden(),
            seconds_before,
            started: Instant::now(),
            step_started: Instant::now(),
        })
    }

    /// Returns the first step of this session.
    pub fn first_step(&self) -> usize {
        self.resumed.as_ref().map_or(0, |state| state.step)
    }

    /// Shows progress towards `num_iterations` steps from now on.
    pub fn show_progress(&mut self, num_iterations: usize) {
        if self.writer.is_some() {
            self.progress = Progress::new(self.stage.name(), self.first_step(), num_iterations);
        }
        self.started = Instant::now();
    }

    /// Changes the expected number of steps.
    pub fn expect_steps(&mut self, num_iterations: usize) {
        if self.writer.is_some() {
            self.progress.expect_steps(num_iterations);
        }
    }

    /// Returns the seconds of training over all sessions of the run.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Tells the user if a step's `n` micro-batches leave some ranks waiting for the others.
    pub fn note_idle(&self, n: usize) {
        let world = self.comm.world_size();
        if !n.is_multiple_of(world) {
            self.say(&format!(
                "{n} micro-batches a step do not divide by {world} ranks, so some wait for others; with another --device-batch-size none does"
            ));
        }
    }

    /// Ends a run that reached its last step: writes its section of the report, with settings and curves.
    fn finish(&mut self) -> Result<()> {
        self.end_recording()?;
        self.progress.finish();
        self.prune()?;
        if self.writer.is_none() {
            return Ok(());
        }
        let mut section = std::mem::take(&mut self.section);
        section.seconds = self.seconds();
        section.settings = self.all_settings.as_object().cloned().unwrap_or_default();
        let metrics = read_metrics(&self.checkpoints.dir().join(METRICS_FILE))?;
        let folder = report::run_folder(&self.base_dir, &self.model_tag);
        section.charts = stage_charts(&section.title, &metrics, &folder)
            .with_context(|| format!("failed to draw into {}", folder.display()))?;
        report::log_section(&self.base_dir, &self.model_tag, &section)?;
        eprintln!("{} took {:.0} s", section.title, section.seconds);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.interrupt.release();
    }
}
