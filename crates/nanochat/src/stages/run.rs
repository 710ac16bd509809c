//! What the stages share around their loops: where a run lives, resuming, saving, interrupts, progress.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nanochat_tensor::{Comm, Device, profile as recorder};
use nanochat_tokenizer::Tokenizer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{Checkpoints, LoadedModel, Stage, TrainState, load_folder};
use crate::config::{Precision, Recompute};
use crate::curve::stage_charts;
use crate::gpt::Gpt;
use crate::metrics::{METRICS_FILE, MetricsWriter, read_metrics};
use crate::optim::Optimizer;
use crate::profile;
use crate::report::{self, Section};
use crate::train::{Diverged, StepResult};

/// Settings that say where a run is kept, how it starts, and how it uses its device.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct RunSettings {
    /// Name of the run [default: d{depth}; in later stages, the deepest model's]
    #[arg(long, value_parser = tag)]
    pub model_tag: Option<String>,
    /// Save a checkpoint every N steps, besides the last (0: the last only)
    #[arg(long, default_value_t = 250)]
    pub save_every: usize,
    /// Keep the last K checkpoints (0: all)
    #[arg(long, default_value_t = 2)]
    pub keep: usize,
    /// Go on where the run's last checkpoint was saved
    #[arg(long)]
    pub resume: bool,
    /// Start the run anew although it has checkpoints
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
    /// Seed of every random choice: initial weights, order of conversations
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Compute a part of the activations a second time instead of keeping them, for less memory
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub recompute: Recompute,
    /// What the products of training round to on the CPU (a GPU trains in bf16)
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub precision: Precision,
    /// Record N steps, after two, into profile.json of the run's folder: a trace for ui.perfetto.dev (0: none)
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(default)]
    pub profile: usize,
}

/// Steps before those that are recorded: they compile kernels and fill pools.
const UNRECORDED: usize = 2;

/// A tag names a folder, and no other than its own.
fn tag(value: &str) -> Result<String, String> {
    let fits = !value.is_empty() && !value.starts_with('.') && !value.contains(['/', '\\']);
    if fits { Ok(value.into()) } else { Err("must be a name without slashes or a dot in front".into()) }
}

/// Settings that may change when a run is resumed: they do not touch what is learned.
/// (The tag has found the run, whether it was given or is the default.)
const FREE: [&str; 20] = [
    "model_tag",
    "save_every",
    "keep",
    "resume",
    "overwrite",
    "eval_every",
    "eval_tokens",
    "eval_examples",
    "eval_samples",
    "eval_task",
    "eval_task_every",
    "eval_task_limit",
    "core_metric_every",
    "core_metric_max_per_task",
    "core_bundle",
    "no_core",
    "sample_every",
    "bad_shards",
    "recompute",
    "profile",
];

/// The user asked the run to stop; everything is saved.
#[derive(Debug, thiserror::Error)]
#[error("stopped at step {step}; saved in {folder}. Go on with the same command and --resume")]
pub struct Interrupted {
    pub step: usize,
    pub folder: String,
}

/// A run under way, as one of its ranks. The first one writes files and speaks to the user.
pub struct Run {
    pub comm: Comm,
    pub checkpoints: Checkpoints,
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
    progress: Progress,
    seconds_before: f64,
    started: Instant,
}

/// What one process alone may hold.
struct Writer {
    metrics: MetricsWriter,
    _lock: File,
}

impl Run {
    /// Opens the run's folder for this process alone and finds the checkpoint to go on from.
    pub fn open(
        base_dir: &Path,
        stage: Stage,
        model_tag: &str,
        settings: &RunSettings,
        all_settings: &impl Serialize,
        comm: &Comm,
    ) -> Result<Run> {
        // Through text, which keeps 0.02 as 0.02 where a value would hold the f32's 0.0199999995….
        let all_settings: Value = serde_json::from_str(&serde_json::to_string(all_settings)?)?;
        let checkpoints = Checkpoints::new(base_dir, stage, model_tag);
        let (mut resumed, mut writer) = (None, None);
        if comm.is_first() {
            let (state, opened) = open_folder(&checkpoints, settings, &all_settings)?;
            (resumed, writer) = (state, Some(opened));
        }
        // The others learn from the first where to go on: they must not look while it tidies up.
        let resumed: Option<TrainState> =
            serde_json::from_slice(&comm.broadcast_bytes(0, serde_json::to_vec(&resumed)?))?;
        let seconds_before = resumed.as_ref().map_or(0.0, |state| state.seconds);
        Ok(Run {
            comm: comm.clone(),
            checkpoints,
            resumed,
            writer,
            settings: settings.clone(),
            all_settings,
            unproven: None,
            interrupt: Interrupt::hold()?,
            stopping: false,
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
            let model = new_model().to_device(device);
            let optimizer = new_optimizer(&model);
            return Ok((model, optimizer, None));
        };
        let folder = self.checkpoints.folder(state.step);
        let read = || -> Result<_> {
            let loaded = load_folder(&folder)?;
            let loaded = LoadedModel { model: loaded.model.to_device(device), ..loaded };
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
            self.progress.bar.set_length(num_iterations as u64);
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
        let mut asked = [f64::from(u8::from(self.interrupt.asked.load(Ordering::Relaxed)))];
        self.comm.sum_f64(&mut asked);
        self.stopping = asked[0] > 0.0;
        let every = self.settings.save_every;
        let new = step > self.first_step() || self.resumed.is_none();
        new && (last || self.stopping || (step > 0 && every > 0 && step.is_multiple_of(every)))
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

    /// Called when a step begins, before it is fed: the steps of `--profile` are recorded from here.
    pub fn begin_step(&self, step: usize, device: &Device) {
        if self.settings.profile > 0 && self.writer.is_some() && step == self.first_step() + UNRECORDED {
            recorder::start(device);
        }
    }

    fn end_step(&mut self, step: usize) -> Result<()> {
        self.prune()?;
        if step + 1 == self.first_step() + UNRECORDED + self.settings.profile {
            self.end_recording()?;
        }
        Ok(())
    }

    /// Writes and tells what was recorded, if anything was.
    fn end_recording(&self) -> Result<()> {
        let spans = recorder::finish();
        if !spans.is_empty() {
            let path = self.checkpoints.dir().join("profile.json");
            profile::write(&path, &spans).with_context(|| format!("failed to write {}", path.display()))?;
            self.say(&format!(
                "{}
open {} in ui.perfetto.dev",
                profile::summary(&spans),
                path.display()
            ));
        }
        Ok(())
    }

    /// Logs one training step and moves the progress on.
    pub fn log_step(
        &mut self,
        step: usize,
        result: StepResult,
        tokens: usize,
        seconds: f64,
        lr: f32,
    ) -> Result<()> {
        self.end_step(step)?;
        let tokens_per_second = tokens as f64 / seconds;
        self.log(
            step,
            &[
                ("loss", f64::from(result.loss)),
                ("grad_norm", f64::from(result.grad_norm)),
                ("lr_multiplier", f64::from(lr)),
                ("tokens_per_second", tokens_per_second),
            ],
        )?;
        self.progress.advance(step, result.loss, tokens_per_second);
        Ok(())
    }

    /// A line of `metrics.jsonl`.
    pub fn log(&mut self, step: usize, values: &[(&str, f64)]) -> Result<()> {
        match &mut self.writer {
            Some(writer) => Ok(writer.metrics.log(step as u64, values)?),
            None => Ok(()),
        }
    }

    /// Logs a measurement of validation data under `name` and tells it as `what`. One that is no number ends the run.
    pub fn log_measured(&mut self, step: usize, name: &str, what: &str, value: f64) -> Result<()> {
        if !value.is_finite() {
            return Err(self.diverged(step, Diverged::in_evaluation()));
        }
        self.log(step, &[(name, value)])?;
        self.say(&format!("step {step}: {what} {value:.4}"));
        Ok(())
    }

    /// Logs one step of reinforcement learning, `message` for the user.
    pub fn log_rollouts(&mut self, step: usize, values: &[(&str, f64)], message: String) -> Result<()> {
        self.end_step(step)?;
        self.log(step, values)?;
        self.progress.show(step, message, 10);
        Ok(())
    }

    /// A line for the user that does not disturb the progress bar.
    pub fn say(&self, line: &str) {
        if self.writer.is_some() {
            self.progress.say(line);
        }
    }

    /// The sentence of an interrupted run.
    pub fn interrupted(&self, step: usize) -> anyhow::Error {
        self.progress.finish();
        Interrupted { step, folder: self.checkpoints.folder(step).display().to_string() }.into()
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
        let folder = report::report_folder(base_dir);
        section.charts = stage_charts(&section.title, &metrics, &folder)
            .with_context(|| format!("failed to draw into {}", folder.display()))?;
        report::log_section(base_dir, &section)?;
        eprintln!("{} took {:.0} s", section.title, section.seconds);
        Ok(())
    }
}

/// Makes the run's folder this process's alone, and finds the checkpoint to go on from.
fn open_folder(
    checkpoints: &Checkpoints,
    settings: &RunSettings,
    all_settings: &Value,
) -> Result<(Option<TrainState>, Writer)> {
    let dir = checkpoints.dir();
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let lock = lock(dir)?;
    checkpoints.sweep()?;
    let resumed = match checkpoints.steps().last().copied() {
        Some(step) if settings.resume => {
            Some(checkpoints.load_state(step).with_context(|| cannot_go_on(checkpoints, step))?)
        }
        Some(step) if !settings.overwrite => bail!(
            "{} already has a checkpoint of step {step}; go on with --resume, start anew with --overwrite, or name another --model-tag",
            dir.display()
        ),
        Some(_) => {
            discard(checkpoints)?;
            None
        }
        None if settings.resume => {
            eprintln!("no checkpoint in {} yet: starting at step 0", dir.display());
            None
        }
        None => None,
    };
    if let Some(state) = &resumed {
        refuse_changes(&state.settings, all_settings)?;
        eprintln!("going on at step {} of {}", state.step, dir.display());
    }
    let last_logged = resumed.as_ref().and_then(|state| (state.step as u64).checked_sub(1));
    let metrics = MetricsWriter::open(dir, last_logged)?;
    Ok((resumed, Writer { metrics, _lock: lock }))
}

/// One process at a time: two would overwrite each other's checkpoints. The lock ends with the process.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("run.lock");
    let file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another process is training in {}", dir.display()),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("failed to lock {}", path.display())),
    }
}

/// Moves a replaced run's checkpoints aside, in place of those that an earlier --overwrite moved:
/// nothing is lost by one wrong flag.
fn discard(checkpoints: &Checkpoints) -> Result<()> {
    let replaced = checkpoints.dir().join("replaced");
    let io = || format!("failed to move old checkpoints to {}", replaced.display());
    if replaced.exists() {
        fs::remove_dir_all(&replaced).with_context(io)?;
    }
    fs::create_dir(&replaced).with_context(io)?;
    for step in checkpoints.steps() {
        let folder = checkpoints.folder(step);
        let name = folder.file_name().expect("a checkpoint folder has a name");
        fs::rename(&folder, replaced.join(name)).with_context(io)?;
    }
    eprintln!("the old checkpoints were moved to {}", replaced.display());
    Ok(())
}

/// Why a run with a damaged checkpoint stops, and what can be done.
fn cannot_go_on(checkpoints: &Checkpoints, step: usize) -> String {
    let advice = match checkpoints.steps().into_iter().rfind(|&earlier| earlier < step) {
        Some(earlier) => {
            format!("delete {} to go on from step {earlier}", checkpoints.folder(step).display())
        }
        None => "there is no earlier one; start anew with --overwrite".into(),
    };
    format!("cannot go on from the checkpoint of step {step} ({advice})")
}

fn refuse_changes(saved: &Value, now: &Value) -> Result<()> {
    let (Some(saved), Some(now)) = (saved.as_object(), now.as_object()) else { return Ok(()) };
    for (name, value) in now.iter().filter(|(name, _)| !FREE.contains(&name.as_str())) {
        if saved.get(name).is_some_and(|old| old != value) {
            let given = |value: &Value| match value {
                Value::Null => "its default".to_string(),
                value => value.to_string(),
            };
            bail!(
                "the run to resume was started with --{} {}, now it is {}; a resumed run keeps its settings",
                name.replace('_', "-"),
                given(&saved[name]),
                given(value)
            );
        }
    }
    Ok(())
}

/// What Ctrl-C and SIGTERM do from the first run of a process on.
#[derive(Clone, Default)]
struct Interrupt {
    /// Set by the first one: the run under way saves and ends.
    asked: Arc<AtomicBool>,
    /// The next one ends the process: one has come already, or no run is under way.
    ends_at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// A run begins.
    fn hold() -> Result<Interrupt> {
        static ONE: OnceLock<Interrupt> = OnceLock::new();
        let interrupt = match ONE.get() {
            Some(interrupt) => interrupt.clone(),
            None => ONE.get_or_init(Interrupt::default).registered()?,
        };
        interrupt.ends_at_once.store(interrupt.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(interrupt)
    }

    fn registered(&self) -> Result<Interrupt> {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: the signal that sets a flag must not find it set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, self.ends_at_once.clone())?;
            signal_hook::flag::register(signal, self.ends_at_once.clone())?;
            signal_hook::flag::register(signal, self.asked.clone())?;
        }
        Ok(self.clone())
    }
}

/// After a run, the stages of a speedrun that save nothing just end.
impl Drop for Run {
    fn drop(&mut self) {
        self.interrupt.ends_at_once.store(true, Ordering::Relaxed);
    }
}

/// A bar on a terminal; now and then a line where there is none.
struct Progress {
    bar: ProgressBar,
    smooth_loss: Option<f32>,
}

impl Progress {
    fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden(), smooth_loss: None }
    }

    fn new(name: &str, first_step: usize, num_iterations: usize) -> Progress {
        let style = "{prefix} {bar:24} {pos}/{len} · {msg} · {elapsed} gone, {eta} left";
        let style = ProgressStyle::with_template(style).expect("the template is constant");
        let bar = ProgressBar::new(num_iterations as u64).with_position(first_step as u64);
        bar.set_style(style);
        bar.set_prefix(name.to_string());
        bar.reset_eta();
        Progress { bar, smooth_loss: None }
    }

    fn advance(&mut self, step: usize, loss: f32, tokens_per_second: f64) {
        let smooth = self.smooth_loss.map_or(loss, |smooth| 0.9 * smooth + 0.1 * loss);
        self.smooth_loss = Some(smooth);
        self.show(step, format!("loss {smooth:.4} · {:.1}K tok/s", tokens_per_second / 1e3), 50);
    }

    /// On a bar always, as a line every `every` steps.
    fn show(&mut self, step: usize, message: String, every: usize) {
        self.bar.set_position(step as u64 + 1);
        if self.bar.is_hidden() && step.is_multiple_of(every) && self.bar.length().is_some() {
            eprintln!("step {step}/{}: {message}", self.bar.length().unwrap_or(0));
        }
        self.bar.set_message(message);
    }

    fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
