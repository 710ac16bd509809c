//! The training loop that all stages share: between steps a run saves, stops if asked to, and measures.

use std::time::Instant;

use anyhow::Result;
use nanochat_tensor::Comm;
use nanochat_tensor::profile::part;
use nanochat_tokenizer::Tokenizer;
use serde_json::Value;

use super::{Interrupted, Run, interrupt};
use crate::model::batch::Batch;
use crate::model::gpt::Gpt;
use crate::model::optim::{Optimizer, ScheduleValues};
use crate::ranks;
use crate::train;

/// A model in training with its tokenizer and optimizer.
pub struct Learner<'t> {
    pub tokenizer: &'t Tokenizer,
    pub model: Gpt,
    pub optimizer: Optimizer,
}

/// The functions of a stage that the loop calls.
pub trait Training {
    fn learner(&self) -> &Learner<'_>;

    /// Returns the position in the data before the next step, for resuming.
    fn position(&self) -> Value;

    /// Whether the run ends after `step` steps.
    fn is_done(&self, step: usize) -> bool;

    /// Measures what is due at a point, and fills the run's section at the last one. A checkpoint due at this point is
    /// already saved.
    fn measure(&mut self, run: &mut Run, point: Point) -> Result<()>;

    /// Trains one step on the next data.
    fn step(&mut self, run: &mut Run, step: usize) -> Result<()>;
}

/// A point between two steps, where a run saves and measures.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The number of steps done.
    pub step: usize,
    /// Whether no step follows.
    pub last: bool,
}

impl Point {
    /// Whether something that happens every `every` steps is due here. It always is at the last point, and only there
    /// if `every` is 0.
    pub fn is_due(self, every: usize) -> bool {
        self.last || (every > 0 && self.step.is_multiple_of(every))
    }

    /// Like [`Point::is_due`], but never before the first step.
    pub fn is_due_after_start(self, every: usize) -> bool {
        self.last || (self.step > 0 && self.is_due(every))
    }
}

/// Returns this rank's share of a step's `n` micro-batches, which `next` returns in order.
pub fn micro_batches<E>(
    comm: &Comm,
    n: usize,
    mut next: impl FnMut() -> Result<Batch, E>,
) -> Result<Vec<Batch>, E> {
    let all = (0..n).map(|_| next());
    part("feeding", || ranks::mine_of(comm, all).collect())
}

impl Run {
    /// Trains from the run's current step to its last, and writes the report.
    pub fn train(&mut self, mut stage: impl Training) -> Result<()> {
        for step in self.first_step().. {
            let point = Point { step, last: stage.is_done(step) };
            let stopping = self.is_asked_to_stop();
            // Save before evaluating: an evaluation that fails must not cost the run.
            if self.is_save_due(point, stopping) {
                self.save(point, stage.learner(), stage.position())?;
            }
            if stopping && !point.last {
                return Err(self.interrupted(step));
            }
            stage.measure(self, point)?;
            if point.last {
                break;
            }
            self.step_started = Instant::now();
            self.begin_recording(step);
            stage.step(self, step)?;
        }
        self.finish()
    }

    /// Makes and logs one optimizer step on this rank's `micro_batches`; those of all ranks have `tokens` tokens.
    /// Returns the result of `meanwhile`, which runs while a GPU is busy with the step.
    pub fn learn<T>(
        &mut self,
        step: usize,
        learner: &mut Learner,
        micro_batches: &[Batch],
        tokens: usize,
        scheduled: ScheduleValues,
        meanwhile: impl FnOnce() -> T,
    ) -> Result<T> {
        let (model, optimizer) = (&mut learner.model, &mut learner.optimizer);
        let (result, made) = train::step_meanwhile(model, optimizer, micro_batches, scheduled, meanwhile)
            .map_err(|diverged| self.diverged(step, diverged))?;
        self.log_step(step, result, tokens, scheduled.lr_multiplier)?;
        Ok(made)
    }

    /// Returns the seconds since the current step began, before its data was taken.
    pub fn step_seconds(&self) -> f64 {
        self.step_started.elapsed().as_secs_f64()
    }

    /// Whether any rank has been asked to stop. All ranks call this together, so that they stop at the same step.
    fn is_asked_to_stop(&self) -> bool {
        let mut asked = [f64::from(u8::from(self.interrupt.asked().is_some()))];
        self.comm.sum_f64(&mut asked);
        asked[0] > 0.0
    }

    /// Whether to save here; never at the point from which the run resumed.
    fn is_save_due(&self, point: Point, stopping: bool) -> bool {
        let new = point.step > self.first_step() || self.resumed.is_none();
        new && (stopping || point.is_due_after_start(self.settings.save_every))
    }

    /// Returns the error of an interrupted run.
    fn interrupted(&self, step: usize) -> anyhow::Error {
        self.progress.finish();
        let folder = self.checkpoints.folder(step).display().to_string();
        // Another rank may have received the signal.
        let code = interrupt::code(self.interrupt.asked().unwrap_or(signal_hook::consts::SIGINT));
        Interrupted { step, folder, code }.into()
    }
}
