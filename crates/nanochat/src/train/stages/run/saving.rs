//! Loads, saves and deletes the checkpoints of a run.

use anyhow::{Context, Result, bail};
use nanochat_tokenizer::Tokenizer;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::folder::cannot_go_on;
use super::{Learner, Point, Run};
use crate::model::checkpoint::{TrainState, load_folder};
use crate::model::gpt::{Gpt, Rates};
use crate::model::optim::Optimizer;
use crate::train::Diverged;

impl Run {
    /// Returns the model and optimizer to train, and the position in the data (None: the beginning), from the resumed
    /// checkpoint or new. A new optimizer has `rates` and clips the gradient to a norm of `grad_clip`.
    pub fn restore<'t, Position: DeserializeOwned>(
        &self,
        tokenizer: &'t Tokenizer,
        new_model: impl FnOnce() -> Gpt,
        rates: Rates,
        grad_clip: f32,
    ) -> Result<(Learner<'t>, Option<Position>)> {
        let new_optimizer = |model: &Gpt| Optimizer::new(model, rates, grad_clip, &self.comm);
        let (mut model, optimizer, position) = match &self.resumed {
            Some(state) => {
                let (model, optimizer, position) = self.load(state, tokenizer, new_optimizer)?;
                (model, optimizer, Some(position))
            }
            None => {
                let model = new_model().to_device(&self.device)?;
                let optimizer = new_optimizer(&model);
                (model, optimizer, None)
            }
        };
        model.recompute = self.settings.recompute;
        model.recipe = self.settings.precision.recipe(&self.device);
        Ok((Learner { tokenizer, model, optimizer }, position))
    }

    fn load<Position: DeserializeOwned>(
        &self,
        state: &TrainState,
        tokenizer: &Tokenizer,
        new_optimizer: impl Fn(&Gpt) -> Optimizer,
    ) -> Result<(Gpt, Optimizer, Position)> {
        let folder = self.checkpoints.folder(state.step);
        let read = || -> Result<_> {
            let loaded = load_folder(&folder)?.to_device(&self.device)?;
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
        Ok((loaded.model, optimizer, position))
    }

    pub(super) fn save(&mut self, point: Point, learner: &Learner, position: Value) -> Result<()> {
        let Point { step, last } = point;
        let Learner { tokenizer, model, optimizer } = learner;
        let state = TrainState {
            step,
            optimizer_steps: optimizer.steps(),
            position,
            settings: self.all_settings.clone(),
            seconds: self.seconds(),
            finished: Some(last),
        };
        let tensors = optimizer.tensors();
        self.unproven = Some(step);
        if self.writer.is_some() {
            let folder = self.checkpoints.save(model, tokenizer, &tensors, &state)?;
            self.say(&format!("step {step}: saved {}", folder.display()));
        }
        Ok(())
    }

    /// Returns the error of a run whose loss is not finite. If a checkpoint has these very weights, it is deleted, so
    /// that the last checkpoint can be resumed.
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

    /// Deletes checkpoints beyond `--keep`, once the last one is known to have finite losses.
    pub(super) fn prune(&mut self) -> Result<()> {
        match self.unproven.take() {
            Some(_) if self.writer.is_some() => Ok(self.checkpoints.prune(self.settings.keep)?),
            _ => Ok(()),
        }
    }
}
