//! Tests interruptions from outside: signals and closed pipes. Nothing is lost, and the printed command resumes the
//! run.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;

/// Runs longer than any of these tests waits.
const LONG: &str = "--num-iterations 1000000 --save-every 0 --model-tag long";

#[test]
fn a_run_whose_reader_is_gone_saves_and_ends_with_141() {
    let base = prepared();
    let run_dir = base.path().join("base_checkpoints/long");
    let mut child = start(base.path(), &format!("{TINY} {LONG}"));
    assert!(wait_for_lines(&mut child, &run_dir.join("metrics.jsonl"), 5));
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_eq!(checkpoints(&run_dir).len(), 1);
}

#[test]
fn a_speedrun_whose_reader_is_gone_ends_with_141() {
    let base = tempfile::tempdir().unwrap();
    let mut child = start(base.path(), "speedrun --preset smoke");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("$ nanochat train base")));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn what_only_prints_ends_quietly_when_nobody_reads() {
    let base = prepared();
    let mut child = start(base.path(), "doctor");
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    let line = "\"$0\" tok show 2>&1 | head -n 1 >/dev/null; \"$0\" plan | true";
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).arg(assert_cmd::cargo::cargo_bin("nanochat"));
    let output = shell.env("NANOCHAT_BASE_DIR", base.path()).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_closed_terminal_is_told_twice_and_loses_nothing() {
    let base = prepared();
    let run_dir = base.path().join("base_checkpoints/long");
    let mut child = start(base.path(), &format!("{TINY} {LONG}"));
    assert!(wait_for_lines(&mut child, &run_dir.join("metrics.jsonl"), 5));
    signal(&child, "HUP");
    signal(&child, "HUP"); // the shell's hangup follows the system's
    let (status, said) = ended(child);
    assert_eq!(status.code(), Some(129), "{said}");
    assert_eq!(checkpoints(&run_dir).len(), 1);
}

#[test]
fn ctrl_c_is_answered_within_a_step() {
    let base = prepared();
    // A step of 8,000 micro-batches: many seconds.
    let line = format!("{TINY} {LONG}").replace("--total-batch-size 128", "--total-batch-size 1024000");
    let mut child = start(base.path(), &line);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("val_bpb")));
    let asked = Instant::now();
    signal(&child, "INT");
    assert!(lines.any(|line| line.unwrap() == "stopping after this step; again to quit now"));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_command_that_goes_on_works_as_it_is_printed_and_an_unfinished_run_is_no_source() {
    let parent = prepared();
    let base = parent.path().join("it's $HOME");
    fs::create_dir(&base).unwrap();
    for folder in ["base_data", "chat_data", "tokenizer"] {
        copy(&parent.path().join(folder), &base.join(folder));
    }
    let run_dir = base.join("base_checkpoints/d1");
    let mut child = start(&base, &format!("{TINY} --num-iterations 1000 --save-every 0"));
    assert!(wait_for_lines(&mut child, &run_dir.join("metrics.jsonl"), 5));
    signal(&child, "INT");
    let (status, said) = ended(child);
    assert_eq!(status.code(), Some(130), "{said}");

    let sentence = complaint(nanochat(&base, TINY_SFT));
    assert!(sentence.contains("the base run d1 has not finished"), "{sentence}");
    let (_, flags) = sentence.split_once("or say ").unwrap();
    let (flags, _) = flags.split_once(" to start").unwrap();
    run(&base, &format!("{TINY_SFT} --num-iterations 2 {flags}"));

    let (_, command) = said.split_once("Go on with: ").unwrap();
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(run_dir.join("step_001000").exists());
    run(&base, &format!("{TINY_SFT} --num-iterations 2 --overwrite"));
}

/// Linux takes any bytes for a name.
#[cfg(target_os = "linux")]
#[test]
fn a_speedrun_lives_in_a_folder_of_any_name() {
    let parent = tempfile::tempdir().unwrap();
    let base = parent.path().join(OsStr::from_bytes(b"it's\n\xff \"$x\""));
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("nanochat"));
    command.args(["speedrun", "--preset", "smoke", "--no-rl", "--base-dir"]).arg(&base);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(base.join("chatsft_checkpoints/d2").exists());
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}
