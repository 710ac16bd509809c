//! What --overwrite does to the run that was there: it goes to `replaced/`, in place of what an earlier --overwrite put
//! there, whole or not at all. A kill in between is undone by the next start, so that nothing is lost by one wrong flag.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::model::checkpoint::{Checkpoints, DELETING};
use crate::report::metrics::METRICS_FILE;

/// The replaced run, and what it is called while its parts are moved.
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
        fs::rename(&replacing, &replaced)?; // from here on it is done
        remove_if_there(&doomed)
    };
    moved().with_context(|| format!("failed to move old checkpoints to {}", replaced.display()))?;
    Ok(replaced)
}

/// Undoes what a killed [`replace`] had done. Before this nothing may be swept or written in the folder.
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
