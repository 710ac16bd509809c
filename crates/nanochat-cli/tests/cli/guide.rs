//! Tests that the guide is correct: its commands and flags exist, its outputs are the real ones, and its tours run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;

/// A fenced block: the text after the fence, and its lines.
struct FencedBlock {
    page: PathBuf,
    info: String,
    lines: Vec<String>,
}

/// Returns the blocks of both READMEs and of all pages of the guide.
fn blocks() -> Vec<FencedBlock> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md"), root.join("README.zh-CN.md")];
    for language in ["en", "zh"] {
        let folder = root.join("docs/guide").join(language);
        pages.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    pages.sort();
    pages.iter().flat_map(|page| blocks_of(page)).collect()
}

fn blocks_of(page: &Path) -> Vec<FencedBlock> {
    let text = fs::read_to_string(page).unwrap();
    let mut blocks: Vec<FencedBlock> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(info), false) => {
                let (page, info) = (page.to_path_buf(), info.trim().to_string());
                blocks.push(FencedBlock { page, info, lines: Vec::new() });
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => blocks.last_mut().unwrap().lines.push(line.trim_end().to_string()),
            (None, false) => {}
        }
    }
    assert!(!inside, "{} has a fence that is not closed", page.display());
    blocks
}

/// Returns the commands in shell lines, with continued lines joined, without pipes and comments.
fn commands(lines: &[String]) -> Vec<Vec<String>> {
    let text = lines.join("\n").replace("\\\n", " ");
    let command = |line: &str| {
        let line = line.trim().trim_start_matches("$ ");
        let rest = line.strip_prefix("nanochat ").or(line.strip_prefix("cargo run --release -- "))?;
        let is_end =
            |word: &String| ["|", ">", "&&", "&", ";"].contains(&word.as_str()) || word.starts_with('#');
        // `…` stands for the flags of an earlier command.
        Some(words(rest).into_iter().take_while(|word| !is_end(word)).filter(|word| word != "…").collect())
    };
    text.lines().filter_map(command).collect()
}

/// Splits a line into words like a shell.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut begun) = (vec![String::new()], None, false);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            (c, Some(end)) if c == end => quote = None,
            (' ', None) if begun => (words, begun) = ([words, vec![String::new()]].concat(), false),
            (' ', None) => {}
            (c, _) => {
                words.last_mut().unwrap().push(c);
                begun = true;
            }
        }
    }
    if !begun {
        words.pop();
    }
    words
}

#[test]
fn every_command_and_flag_of_the_guide_exists() {
    let shells = blocks().into_iter().filter(|block| block.info.starts_with("sh") || block.info == "console");
    let all: BTreeSet<(Vec<String>, PathBuf)> = shells
        .flat_map(|block| commands(&block.lines).into_iter().map(move |line| (line, block.page.clone())))
        .collect();
    assert!(all.len() > 60, "{} commands", all.len());
    let base = tempfile::tempdir().unwrap();
    let is_settings =
        |block: &FencedBlock| block.lines.first().is_some_and(|line| line.starts_with("# run.toml"));
    let settings = blocks().into_iter().find(is_settings).expect("the guide shows a file of settings");
    fs::write(base.path().join("run.toml"), settings.lines.join("\n")).unwrap();
    for (line, page) in all {
        // A flag that does not exist, or a value that does not fit, fails before the help is shown.
        let mut command = nanochat(base.path(), "");
        let output = command.args(&line).arg("--help").current_dir(base.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: nanochat {}\n{said}", page.display(), line.join(" "));
    }
}

#[test]
fn what_the_guide_shows_is_what_is_printed() {
    let base = tempfile::tempdir().unwrap();
    let mut shown = 0;
    for block in blocks().iter().filter(|block| block.info == "console") {
        let mut printed: Vec<String> = Vec::new();
        for line in &block.lines {
            if line.starts_with("$ ") {
                let line = commands(std::slice::from_ref(line)).remove(0);
                let mut command = nanochat(base.path(), "");
                command.args(&line);
                printed = output(command).lines().map(|line| line.trim_end().to_string()).collect();
            } else if !line.is_empty() && line != "…" {
                let at = printed.iter().position(|found| found == line);
                let at = at.unwrap_or_else(|| panic!("{}: {line:?} is not printed", block.page.display()));
                printed.drain(..=at);
                shown += 1;
            }
        }
    }
    assert!(shown > 50, "{shown} lines");
}

#[test]
fn the_tours_of_the_guide_run_as_written() {
    if !slow("the_tours_of_the_guide_run_as_written") {
        return;
    }
    let mut pages: Vec<(PathBuf, String)> = Vec::new();
    for FencedBlock { page, lines, .. } in blocks().into_iter().filter(|block| block.info == "sh run") {
        let lines = lines.join("\n") + "\n";
        match pages.last_mut().filter(|(last, _)| *last == page) {
            Some((_, script)) => script.push_str(&lines),
            None => pages.push((page, lines)),
        }
    }
    assert!(pages.len() >= 2, "a tour in each language");
    let program = assert_cmd::cargo::cargo_bin("nanochat");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for (page, script) in pages {
        let temp = tempfile::tempdir().unwrap();
        let mut command = assert_cmd::Command::new("sh");
        command.args(["-e", "-c", &script]).env("PATH", &path).env_remove("NANOCHAT_BASE_DIR");
        let output = command.current_dir(temp.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}:\n{said}", page.display());
    }
}
