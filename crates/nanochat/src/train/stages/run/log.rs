//! Logs a run: steps, measurements, and the recording of a few steps.

use anyhow::{Context, Result};
use nanochat_tensor::profile as recorder;

use super::Run;
use crate::chat::mixture::Mixture;
use crate::report::profile;
use crate::train::{Diverged, StepResult};

/// The number of steps before those that are recorded; they compile kernels and fill memory pools.
const UNRECORDED: usize = 2;

impl Run {
    /// Starts recording at the first step of `--profile`. Called when a step begins, before its data is taken.
    pub(super) fn begin_recording(&self, step: usize) {
        if self.settings.profile > 0 && self.writer.is_some() && step == self.first_step() + UNRECORDED {
            recorder::start(self.device.clock());
        }
    }

    fn end_step(&mut self, step: usize) -> Result<()> {
        self.prune()?;
        if step + 1 == self.first_step() + UNRECORDED + self.settings.profile {
            self.end_recording()?;
        }
        Ok(())
    }

    /// Writes the recording, if any, and tells the user.
    pub(super) fn end_recording(&self) -> Result<()> {
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

    /// Logs one training step and advances the progress bar.
    pub(super) fn log_step(&mut self, step: usize, result: StepResult, tokens: usize, lr: f32) -> Result<()> {
        let tokens_per_second = tokens as f64 / self.step_seconds();
        self.end_step(step)?;
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

    /// Writes a line of `metrics.jsonl`.
    pub fn log(&mut self, step: usize, values: &[(&str, f64)]) -> Result<()> {
        match &mut self.writer {
            Some(writer) => Ok(writer.metrics.log(step as u64, values)?),
            None => Ok(()),
        }
    }

    /// Logs a measurement of validation data under `name` and shows it as `what`. Fails if the value is not finite.
    pub fn log_measured(&mut self, step: usize, name: &str, what: &str, value: f64) -> Result<()> {
        if !value.is_finite() {
            return Err(self.diverged(step, Diverged::in_evaluation()));
        }
        self.log(step, &[(name, value)])?;
        self.say(&format!("step {step}: {what} {value:.4}"));
        Ok(())
    }

    /// Logs one step of reinforcement learning, and shows `message` to the user.
    pub fn log_rollouts(&mut self, step: usize, values: &[(&str, f64)], message: String) -> Result<()> {
        self.end_step(step)?;
        self.log(step, values)?;
        self.progress.show(step, message, 10);
        Ok(())
    }

    /// Tells the user which data is unused, once for each file.
    pub fn say_unused(&self, mixtures: &[&Mixture]) {
        let mut said = Vec::new();
        for sentence in mixtures.iter().flat_map(|mixture| mixture.sentences()) {
            if !said.contains(&sentence) {
                self.say(&sentence);
                said.push(sentence);
            }
        }
    }

    /// Shows the user a line without disturbing the progress bar.
    pub fn say(&self, line: &str) {
        if self.writer.is_some() {
            self.progress.say(line);
        }
    }
}
