//! Moves the old run aside for --overwrite: it goes to `replaced/`, completely or not at all, and replaces what an
//! earlier --overwrite put there. If the process is killed meanwhile, the next start undoes the move, so that one wrong
//! flag loses nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::model::checkpoint::{Checkpoints, DELETING};
use crate::report::metrics::METRICS_FILE;

/// The folder of the replaced run, and its name while the parts are moved.
const REPLACED: &str = "replaced";
const REPLACING: &str = "replacing";

/// Moves a run's checkpoints and metrics aside, and returns the folder that they are in now.
pub(super) fn replace(checkpoints: &Checkpoints) -> Result<PathBuf> {
    let [replaced, replacing, doomed] = folders(checkpoints.dir());
    let steps = checkpoints.steps().into_iter().map(|step| checkpoints.folder(step));
    let metrics = checkpoints.dir().join(METRICS_FILE);
    let parts: Vec<PathBuf> = steps.chain(Some(metrics).filter(|metrics| metrics.exists())).collect();
    let moved = || -> io::Result<()> {
        fs::create_dir(&replacing)?;
        move_all(&parts, &replacing)?;
        rename_if_there(&replaced, &doomed)?;
        fs::rename(&replacing, &replaced)?; // from here on the move is complete
        remove_if_there(&doomed)
    };
    moved().with_context(|| format!("failed to move old checkpoints to {}", replaced.display()))?;
    Ok(replaced)
}

/// Undoes a [`replace`] that was killed. Nothing may be deleted or written in the folder before this.
pub(super) fn restore(dir: &Path) -> Result<()> {
    let [replaced, replacing, doomed] = folders(dir);
    if !replacing.exists() {
        return Ok(());
    }
    let moved = || -> io::Result<()> {
        let parts: io::Result<Vec<PathBuf>> =
            fs::read_dir(&replacing)?.map(|entry| entry.map(|entry| entry.path())).collect();
        move_all(&parts?, dir)?;
        rename_if_there(&doomed, &replaced)?;
        fs::remove_dir(&replacing)
    };
    moved().with_context(|| format!("failed to move the checkpoints in {} back", replacing.display()))
}

fn folders(dir: &Path) -> [PathBuf; 3] {
    [REPLACED.into(), REPLACING.into(), format!("{DELETING}{REPLACED}")].map(|name: String| dir.join(name))
}

fn move_all(paths: &[PathBuf], folder: &Path) -> io::Result<()> {
    let name = |path: &Path| folder.join(path.file_name().expect("a part of a run has a name"));
    paths.iter().try_for_each(|path| fs::rename(path, name(path)))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    if from.exists() { fs::rename(from, to) } else { Ok(()) }
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    if folder.exists() { fs::remove_dir_all(folder) } else { Ok(()) }
}
