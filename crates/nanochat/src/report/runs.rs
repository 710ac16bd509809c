//! The folders of the reports. Each run has one report, under the same tag as its checkpoints:
//!
//! ```text
//! report/
//!   section-tokenizer.json   of the tokenizer that runs to come learn with
//!   header.json              what `report reset` noted for them
//!   d4/                      a run: its sections and charts, report.md and report.html
//!     replaced-1/            what was here when a stage of the run began anew
//! ```
//!
//! Earlier versions kept the sections of the last run in `report/` itself. They are read if no run has a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{
    Column, HEADER_FILE, HTML_FILE, Header, REPORT_FILE, ReportError, Section, environment, file_name,
    io_error, now, read_json, write_json,
};
use crate::files::atomic_file;
use crate::model::checkpoint::Stage;

const TOKENIZER: &str = "Tokenizer";

/// The run of a report and its sections.
pub(super) struct RunReport {
    /// None for the format from before runs had folders.
    pub tag: Option<String>,
    pub folder: PathBuf,
    /// The sections, in the order in which their stages started.
    pub sections: Vec<Section>,
}

/// Returns the folder of the reports of all runs.
pub fn report_folder(base_dir: &Path) -> PathBuf {
    base_dir.join("report")
}

/// Returns the folder of a run's report, its sections and its charts.
pub fn run_folder(base_dir: &Path, model_tag: &str) -> PathBuf {
    report_folder(base_dir).join(model_tag)
}

/// Deletes the reports of all runs, and records the machine and its price for later ones.
pub fn reset(base_dir: &Path, dollars_per_hour: Option<f64>) -> Result<(), ReportError> {
    let folder = report_folder(base_dir);
    remove(fs::remove_dir_all(&folder), &folder)?;
    write_json(&folder.join(HEADER_FILE), &Header { dollars_per_hour, environment: environment() })
}

/// Begins a stage of a run again: moves the sections of that stage and of later ones, which depended on its result, to
/// `replaced-N/`. The first stage of a run records the machine and adopts the section of the tokenizer.
pub fn begin(base_dir: &Path, model_tag: &str, stage: Stage) -> Result<(), ReportError> {
    let (all, folder) = (report_folder(base_dir), run_folder(base_dir, model_tag));
    let replaced = |section: &Section| stage == Stage::Base || section.column >= Some(Column::from(stage));
    let mut files = Vec::new();
    for path in section_files(&folder)? {
        match read_json::<Section>(&path) {
            Ok(section) if !replaced(&section) => continue,
            Ok(section) => files.extend(section.charts.iter().map(|chart| folder.join(&chart.file))),
            Err(ReportError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        files.push(path);
    }
    if !files.is_empty() {
        files.extend([REPORT_FILE, HTML_FILE].map(|file| folder.join(file)));
        move_aside(&folder, &files)?;
    }
    let header = folder.join(HEADER_FILE);
    if stage == Stage::Base || !header.exists() {
        let noted = all.join(HEADER_FILE);
        let price = if noted.exists() { read_json::<Header>(&noted)?.dollars_per_hour } else { None };
        write_json(&header, &Header { dollars_per_hour: price, environment: environment() })?;
    }
    let tokenizer = section_file(&all, TOKENIZER);
    if stage == Stage::Base && tokenizer.exists() {
        let bytes = fs::read(&tokenizer).map_err(io_error(&tokenizer))?;
        let copy = section_file(&folder, TOKENIZER);
        atomic_file::write(&copy, &bytes).map_err(io_error(&copy))?;
    }
    Ok(())
}

fn move_aside(folder: &Path, files: &[PathBuf]) -> Result<(), ReportError> {
    let aside = (1..).map(|n| folder.join(format!("replaced-{n}"))).find(|aside| !aside.exists());
    let aside = aside.expect("fewer than 2^31 folders");
    fs::create_dir_all(&aside).map_err(io_error(&aside))?;
    for file in files.iter().filter(|file| file.exists()) {
        let to = aside.join(file.file_name().unwrap_or_default());
        fs::rename(file, &to).map_err(io_error(file))?;
    }
    Ok(())
}

/// Writes or replaces the section of one stage or evaluation of a run.
pub fn log_section(base_dir: &Path, model_tag: &str, section: &Section) -> Result<(), ReportError> {
    log(&run_folder(base_dir, model_tag), section)
}

/// Writes the section of a tokenizer, for the runs that will use it. None deletes it: nothing is known about the
/// tokenizer.
pub fn log_tokenizer(base_dir: &Path, section: Option<Section>) -> Result<(), ReportError> {
    let folder = report_folder(base_dir);
    match section {
        Some(section) => log(&folder, &Section { title: TOKENIZER.into(), ..section }),
        None => {
            let path = section_file(&folder, TOKENIZER);
            remove(fs::remove_file(&path), &path)
        }
    }
}

fn log(folder: &Path, section: &Section) -> Result<(), ReportError> {
    write_json(&section_file(folder, &section.title), &Section { logged: now(), ..section.clone() })
}

/// Returns the run with this tag, or else the one that logged last.
pub(super) fn find(base_dir: &Path, model_tag: Option<&str>) -> Result<RunReport, ReportError> {
    let folder = report_folder(base_dir);
    let mut runs = runs(&folder)?;
    if let Some(tag) = model_tag {
        let tags: Vec<&str> = runs.iter().filter_map(|run| run.tag.as_deref()).collect();
        let error = ReportError::NoRun { tag: tag.into(), folder, tags: tags.join(", ") };
        return runs.into_iter().find(|run| run.tag.as_deref() == Some(tag)).ok_or(error);
    }
    runs.sort_by(|a, b| a.logged().total_cmp(&b.logged()));
    if let Some(last) = runs.pop() {
        return Ok(last);
    }
    match sections(&folder)? {
        sections if sections.is_empty() => Err(ReportError::Nothing { folder }),
        sections => Ok(RunReport { tag: None, folder, sections }),
    }
}

/// Whether an earlier version left sections that belong to no run.
pub fn has_earlier(base_dir: &Path) -> Result<bool, ReportError> {
    let folder = report_folder(base_dir);
    Ok(section_files(&folder)?.iter().any(|file| *file != section_file(&folder, TOKENIZER)))
}

impl RunReport {
    fn logged(&self) -> f64 {
        self.sections.iter().map(|section| section.logged).fold(0.0, f64::max)
    }
}

/// Returns all runs that have a section.
fn runs(folder: &Path) -> Result<Vec<RunReport>, ReportError> {
    let mut runs = Vec::new();
    for path in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let (sections, tag) = (sections(&path)?, path.file_name().and_then(|name| name.to_str()));
        if let (Some(tag), false) = (tag, sections.is_empty()) {
            runs.push(RunReport { tag: Some(tag.into()), folder: path.clone(), sections });
        }
    }
    Ok(runs)
}

/// Returns all sections, in the order in which their stages started.
fn sections(folder: &Path) -> Result<Vec<Section>, ReportError> {
    let mut sections: Vec<Section> =
        section_files(folder)?.iter().map(|path| read_json(path)).collect::<Result<_, _>>()?;
    sections.sort_by(|a, b| a.started.total_cmp(&b.started).then_with(|| a.title.cmp(&b.title)));
    Ok(sections)
}

fn section_files(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let is_section = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("section-") && name.ends_with(".json")
    };
    Ok(entries(folder)?.into_iter().filter(is_section).collect())
}

/// Lists the entries of a folder by name; a folder that is missing has none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(folder))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(io_error(folder))?;
    paths.sort();
    Ok(paths)
}

fn section_file(folder: &Path, title: &str) -> PathBuf {
    folder.join(format!("section-{}.json", file_name(title)))
}

/// Passes on the result of a deletion, which may find nothing to delete.
fn remove(removed: io::Result<()>, path: &Path) -> Result<(), ReportError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
