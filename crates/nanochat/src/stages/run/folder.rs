//! The folder of a run: one process at a time, the checkpoint to go on from, what an overwritten run leaves.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::settings::{RunSettings, refuse_changes};
use crate::checkpoint::{Checkpoints, TrainState};
use crate::escape;
use crate::metrics::MetricsWriter;
use crate::output;

/// What one process alone may hold.
pub(super) struct Writer {
    pub(super) metrics: MetricsWriter,
    _lock: File,
}

/// Makes the run's folder this process's alone, and finds the checkpoint to go on from.
pub(super) fn open_folder(
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
            tell(&format!("no checkpoint in {} yet: starting at step 0", dir.display()));
            None
        }
        None => None,
    };
    if let Some(state) = &resumed {
        refuse_changes(&state.settings, all_settings)?;
        tell(&format!("going on at step {} of {}", state.step, dir.display()));
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

fn tell(sentence: &str) {
    output::tell(&escape::line(sentence));
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
    tell(&format!("the old checkpoints were moved to {}", replaced.display()));
    Ok(())
}

/// Why a run with a damaged checkpoint stops, and what can be done.
pub(super) fn cannot_go_on(checkpoints: &Checkpoints, step: usize) -> String {
    let advice = match checkpoints.steps().into_iter().rfind(|&earlier| earlier < step) {
        Some(earlier) => {
            format!("delete {} to go on from step {earlier}", checkpoints.folder(step).display())
        }
        None => "there is no earlier one; start anew with --overwrite".into(),
    };
    format!("cannot go on from the checkpoint of step {step} ({advice})")
}
