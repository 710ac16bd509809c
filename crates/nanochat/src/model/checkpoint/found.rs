//! Finds the checkpoint that a command uses if no stage is named, and describes it in a sentence.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use super::{CheckpointError, Checkpoints, Stage, deepest_first, find};

/// The stage, tag and step of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCheckpoint {
    pub stage: Stage,
    pub tag: String,
    pub step: usize,
    /// Whether this step is its run's last.
    pub finished: bool,
}

impl FoundCheckpoint {
    /// Returns the checkpoint in a folder such as `chatsft_checkpoints/d4/step_000500`, or None for a model of another
    /// origin.
    pub fn of(folder: &Path) -> Option<FoundCheckpoint> {
        let name = |folder: Option<&Path>| Some(folder?.file_name()?.to_string_lossy().into_owned());
        let run = folder.parent()?;
        let stage = name(run.parent())?;
        let stage = Stage::ALL.into_iter().find(|known| stage == known.folder())?;
        let step = name(Some(folder))?.strip_prefix("step_")?.parse().ok()?;
        // A copy may lack the training state; code that needs the state reports its damage.
        let finished =
            Checkpoints { dir: run.into() }.load_state(step).map_or(true, |state| state.is_finished());
        Some(FoundCheckpoint { stage, tag: name(Some(run))?, step, finished })
    }
}

/// Formats the checkpoint as in "using the sft checkpoint of d4, step 500".
impl Display for FoundCheckpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let FoundCheckpoint { stage, tag, step, finished } = self;
        let unfinished = if *finished { "" } else { ", before the end of its run" };
        write!(f, "the {} checkpoint of {tag}, step {step}{unfinished}", stage.name())
    }
}

/// Finds the model to talk to if no stage is named: the last step of the deepest finished run of the latest stage (rl,
/// sft, mid, base) that has one. If no run has finished, takes the latest stage that has begun. A given `step` may be
/// in the middle of a run.
pub fn find_furthest(
    base_dir: &Path,
    model_tag: Option<&str>,
    step: Option<usize>,
) -> Result<PathBuf, CheckpointError> {
    let (mut unfinished, mut has_tag) = (None, None);
    for stage in Stage::ALL.into_iter().rev() {
        let tags = match model_tag {
            Some(tag) => vec![tag.to_string()],
            None => deepest_first(&base_dir.join(stage.folder())),
        };
        for tag in tags {
            let checkpoints = Checkpoints::new(base_dir, stage, &tag);
            let steps = checkpoints.steps();
            has_tag = has_tag.or(steps.last().map(|_| (stage, tag)));
            let Some(&found) = steps.iter().rev().find(|&&found| step.is_none_or(|step| step == found))
            else {
                continue;
            };
            let folder = checkpoints.folder(found);
            if step.is_some() || FoundCheckpoint::of(&folder).is_some_and(|found| found.finished) {
                return Ok(folder);
            }
            unfinished.get_or_insert(folder);
        }
    }
    match (unfinished, has_tag) {
        (Some(folder), _) => Ok(folder),
        (None, Some((stage, tag))) => find(base_dir, stage, Some(&tag), step),
        (None, None) => find(base_dir, Stage::Base, model_tag, step),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::checkpoint::{TrainState, write_json};

    /// Makes a checkpoint without a model.
    fn checkpoint(base: &Path, stage: Stage, tag: &str, step: usize, finished: Option<bool>, steps: Value) {
        let folder = Checkpoints::new(base, stage, tag).folder(step);
        let settings = json!({ "num_iterations": steps });
        let state =
            TrainState { step, optimizer_steps: 0, position: Value::Null, settings, seconds: 0.0, finished };
        write_json(&folder.join("train_state.json"), &json!(state)).unwrap();
    }

    #[test]
    fn the_furthest_stage_that_finished_is_found() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let found = |tag, step| {
            find_furthest(base, tag, step).map(|folder| FoundCheckpoint::of(&folder).unwrap().to_string())
        };
        assert!(found(None, None).unwrap_err().to_string().contains("nanochat train base"));
        checkpoint(base, Stage::Base, "d4", 5, Some(false), Value::Null);
        let unfinished = "the base checkpoint of d4, step 5, before the end of its run";
        assert_eq!(found(None, None).unwrap(), unfinished);
        checkpoint(base, Stage::Mid, "d4", 3, Some(true), Value::Null);
        checkpoint(base, Stage::Base, "d4", 9, Some(true), Value::Null);
        checkpoint(base, Stage::Base, "d12", 2, Some(true), Value::Null);
        assert_eq!(found(None, None).unwrap(), "the mid checkpoint of d4, step 3");
        assert_eq!(found(Some("d12"), None).unwrap(), "the base checkpoint of d12, step 2");
        // SFT of one model is in progress; of another it has finished, as saved by earlier versions.
        checkpoint(base, Stage::Sft, "d12", 4, Some(false), Value::Null);
        assert_eq!(found(None, None).unwrap(), "the mid checkpoint of d4, step 3");
        checkpoint(base, Stage::Sft, "d6", 7, None, json!(7));
        checkpoint(base, Stage::Rl, "d6", 7, None, json!(8));
        assert_eq!(found(None, None).unwrap(), "the sft checkpoint of d6, step 7");
        checkpoint(base, Stage::Rl, "d6", 8, None, Value::Null);
        assert_eq!(found(None, None).unwrap(), "the rl checkpoint of d6, step 8");
        // A given step may be in the middle of a run.
        assert_eq!(found(Some("d4"), Some(5)).unwrap(), unfinished);
        let error = found(Some("d6"), Some(1)).unwrap_err().to_string();
        assert!(error.contains("step 1 in") && error.contains("[7, 8]"), "{error}");
    }
}
