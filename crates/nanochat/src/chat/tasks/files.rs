//! Finds a task's files in the folder of data sets.

use std::path::{Path, PathBuf};

use super::{Split, TaskError, split_name};
use crate::files::file_error::{FileError, at};

/// Returns the files of the first pattern that matches any, sorted. A pattern is a path below `folder` with any number
/// of `*` in each of its components.
pub fn find(
    task: &str,
    split: Split,
    folder: &Path,
    patterns: &[&str],
    source: &str,
) -> Result<Vec<PathBuf>, TaskError> {
    for pattern in patterns {
        let mut files = vec![folder.to_path_buf()];
        for part in pattern.split('/') {
            files = files.iter().map(|file| matches(file, part)).collect::<Result<Vec<_>, _>>()?.concat();
        }
        if !files.is_empty() {
            return Ok(files);
        }
    }
    let hint = format!(
        "put {source} there, as {}; `nanochat data download` fetches public sets",
        patterns.join(" or ")
    );
    Err(TaskError::Missing { task: task.into(), split: split_name(split), folder: folder.into(), hint })
}

/// Returns the files in `folder` whose names match `pattern`; none if there is no such folder.
fn matches(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, FileError> {
    if !pattern.contains('*') {
        return Ok(Some(folder.join(pattern)).filter(|path| path.exists()).into_iter().collect());
    }
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        if entry.file_name().to_str().is_some_and(|name| fits(name, pattern)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|name| (0..=name.len()).any(|i| name.is_char_boundary(i) && fits(&name[i..], rest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_letters() {
        for (name, pattern, expected) in [
            ("test-00000-of-00001.parquet", "test-*.parquet", true),
            ("test.parquet", "test-*.parquet", false),
            ("法律_val.csv", "*_val.csv", true),
            ("law_dev.csv", "*_val.csv", false),
            ("abc", "a*b*c", true),
        ] {
            assert_eq!(fits(name, pattern), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn the_first_pattern_with_files_wins_and_none_says_what_to_do() {
        let temp = tempfile::tempdir().unwrap();
        for file in ["hub/b/test-1.parquet", "hub/a/test-1.parquet", "own/test.csv"] {
            let path = temp.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let find = |patterns: &[&str]| find("T", Split::Test, temp.path(), patterns, "the set");
        let files = find(&["none/x", "hub/*/test-*.parquet", "own/test.csv"]).unwrap();
        assert_eq!(files, ["hub/a/test-1.parquet", "hub/b/test-1.parquet"].map(|f| temp.path().join(f)));
        let error = find(&["none/*.csv", "own/no.csv"]).unwrap_err().to_string();
        assert!(error.contains("the test items of T are not in"), "{error}");
        assert!(
            error.contains("put the set there, as none/*.csv or own/no.csv; `nanochat data download`"),
            "{error}"
        );
    }
}
