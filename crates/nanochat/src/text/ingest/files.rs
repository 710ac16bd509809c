//! Selects the files to read, and records what is skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::IngestError;
use crate::files::file_error::{FileError, at};
use crate::terminal::counted::{counted, plural};

pub(crate) struct InputFile {
    pub path: PathBuf,
    pub kind: FileKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    Text,
    /// One object per line, or one list of objects.
    Json,
    /// Columns separated by commas.
    Csv,
    /// Columns separated by tabs.
    Tsv,
    Parquet,
}

/// The reason why a file or folder is not read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unread {
    /// A file with an unknown extension such as `.png`.
    Ending(String),
    NoExtension,
    Hidden,
    /// A link to a folder, which may lead back to where it lies.
    LinkToFolder,
}

/// The files and folders that are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// The number of files for each reason.
    pub kinds: BTreeMap<Unread, usize>,
    /// The given folders that contain nothing to read.
    pub folders: Vec<PathBuf>,
}

impl InputFile {
    /// Returns the file's size on disk in bytes.
    pub fn len(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }
}

/// Returns the files of `paths`, at least one, and what was skipped among them.
pub(crate) fn input_files(paths: &[PathBuf]) -> Result<(Vec<InputFile>, PassedOver), IngestError> {
    let (mut files, mut passed) = (Vec::new(), PassedOver::default());
    for path in paths {
        let before = files.len();
        list(path, &mut files, &mut passed)?;
        if files.len() == before && path.is_dir() {
            passed.folders.push(path.clone());
        }
    }
    if files.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let only: Vec<String> = passed.kinds.iter().map(|(kind, n)| kind.described(*n)).collect();
        let only = if only.is_empty() { String::new() } else { format!(", only {}", only.join(", ")) };
        return Err(IngestError::NoFiles(names.join(", ") + &only));
    }
    Ok((files, passed))
}

/// Adds a file, or the files of a folder and its subfolders in the order of their names. Hidden entries and links to
/// folders are skipped.
fn list(path: &Path, files: &mut Vec<InputFile>, passed: &mut PassedOver) -> Result<(), FileError> {
    if path.metadata().map_err(at(path))?.is_dir() {
        let entries = std::fs::read_dir(path).map_err(at(path))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(at(path))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                passed.add(Unread::Hidden);
            } else if entry.path().is_symlink() && entry.path().is_dir() {
                passed.add(Unread::LinkToFolder);
            } else {
                list(&entry.path(), files, passed)?;
            }
        }
        return Ok(());
    }
    match FileKind::of(path) {
        Ok(kind) => files.push(InputFile { path: path.into(), kind }),
        Err(unread) => passed.add(unread),
    }
    Ok(())
}

impl Unread {
    /// Describes `n` of them in words.
    fn described(&self, n: usize) -> String {
        match self {
            Unread::Ending(ending) => format!("{} with {ending}", counted(n, "file")),
            Unread::NoExtension => format!("{} with no extension", counted(n, "file")),
            Unread::Hidden => format!("{} or {}", counted(n, "hidden file"), plural(n, "folder")),
            Unread::LinkToFolder => {
                format!("{} to {}", counted(n, "link"), if n == 1 { "a folder" } else { "folders" })
            }
        }
    }
}

impl PassedOver {
    fn add(&mut self, what: Unread) {
        *self.kinds.entry(what).or_default() += 1;
    }

    /// Returns one sentence for each reason.
    pub fn sentences(&self) -> Vec<String> {
        let kinds = self.kinds.iter().map(|(kind, n)| format!("passed over {}", kind.described(*n)));
        let folders = self.folders.iter().map(|path| format!("found nothing to read in {}", path.display()));
        kinds.chain(folders).collect()
    }
}

impl FileKind {
    /// Returns the kind of a file by its extension.
    fn of(path: &Path) -> Result<FileKind, Unread> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst"));
        match plain.unwrap_or(&name).rsplit_once('.') {
            Some((_, "txt" | "md")) => Ok(FileKind::Text),
            Some((_, "json" | "jsonl" | "ndjson")) => Ok(FileKind::Json),
            Some((_, "csv")) => Ok(FileKind::Csv),
            Some((_, "tsv")) => Ok(FileKind::Tsv),
            Some((_, "parquet")) if plain.is_none() => Ok(FileKind::Parquet),
            _ => Err(match name.split_once('.') {
                Some((_, end)) => Unread::Ending(format!(".{end}")),
                None => Unread::NoExtension,
            }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            FileKind::Text => "text",
            FileKind::Json => "JSON",
            FileKind::Csv => "CSV",
            FileKind::Tsv => "TSV",
            FileKind::Parquet => "parquet",
        }
    }
}
