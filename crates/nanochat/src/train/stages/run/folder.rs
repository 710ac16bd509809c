//! Opens the folder of a run for one process alone, and finds the checkpoint to resume.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::replaced::{replace, restore};
use super::settings::{RunSettings, refuse_changes};
use crate::model::checkpoint::{Checkpoints, TrainState};
use crate::report::metrics::MetricsWriter;
use crate::terminal::escape;
use crate::terminal::output;

/// The metrics file and the lock, which only one process may hold.
pub(super) struct RunWriter {
    pub(super) metrics: MetricsWriter,
    _lock: File,
}

/// Opens the run's folder for this process alone, and finds the checkpoint to resume.
pub(super) fn open_folder(
    checkpoints: &Checkpoints,
    settings: &RunSettings,
    all_settings: &Value,
) -> Result<(Option<TrainState>, RunWriter)> {
    let dir = checkpoints.dir();
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let lock = lock(dir, File::try_lock)?;
    restore(dir)?;
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
            let replaced = replace(checkpoints)?;
            tell(&format!("the old checkpoints were moved to {}", replaced.display()));
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
    Ok((resumed, RunWriter { metrics, _lock: lock }))
}

/// Locks the folder for one process, since two would overwrite each other's checkpoints. The lock ends with the
/// process. If the file system has no locks, the user is told to take care of it.
fn lock(dir: &Path, try_lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<File> {
    let path = dir.join("run.lock");
    let file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("another process is training in {}", dir.display()),
        Err(TryLockError::Error(error)) => tell(&format!(
            "{} cannot be locked ({error}): nothing but you keeps a second training out of this folder",
            path.display()
        )),
    }
    Ok(file)
}

fn tell(sentence: &str) {
    output::tell(&escape::line(sentence));
}

/// Returns the message for a damaged checkpoint, with what the user can do.
pub(super) fn cannot_go_on(checkpoints: &Checkpoints, step: usize) -> String {
    let advice = match checkpoints.steps().into_iter().rfind(|&earlier| earlier < step) {
        Some(earlier) => {
            format!("delete {} to go on from step {earlier}", checkpoints.folder(step).display())
        }
        None => "there is no earlier one; start anew with --overwrite".into(),
    };
    format!("cannot go on from the checkpoint of step {step} ({advice})")
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_folder_is_for_one_process_where_there_are_locks_and_for_all_where_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path(), File::try_lock).unwrap();
        assert!(lock(dir.path(), File::try_lock).unwrap_err().to_string().contains("another process"));
        lock(dir.path(), |_| Err(TryLockError::Error(Error::from(ErrorKind::Unsupported)))).unwrap();
        first.unlock().unwrap(); // closing the file does not unlock it while another test forks
        lock(dir.path(), File::try_lock).unwrap();
    }
}
