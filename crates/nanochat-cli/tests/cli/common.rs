//! Shared by the tests of the binary: small base folders, running commands, and their output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// Trains a model in steps of 3 ms: 100 thousand parameters, 128 tokens a step.
pub const TINY: &str = "train base --depth 1 --max-seq-len 64 --device-batch-size 2 --total-batch-size 128 \
    --eval-tokens 256 --eval-every 10 --sample-every 0 --sample-prompt x";
pub const TINY_MID: &str = "train mid --eval-tokens 256 --eval-every 10";
pub const TINY_SFT: &str = "train sft --device-batch-size 2 --target-examples-per-step 4";
pub const TINY_RL: &str = "train rl --examples-per-step 2 --num-samples 4 --device-batch-size 4 \
    --max-new-tokens 12 --eval-examples 4 --eval-samples 2 --eval-every 10";

/// Returns the command `nanochat LINE` for a base folder; words are separated by spaces.
pub fn nanochat(base: &Path, line: &str) -> Command {
    let mut command = Command::cargo_bin("nanochat").unwrap();
    command.args(line.split_whitespace()).env("NANOCHAT_BASE_DIR", base);
    command
}

/// Runs a command that must succeed and returns its stdout.
pub fn output(mut command: Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// Runs a command that must succeed and returns its stderr.
pub fn said(mut command: Command) -> String {
    String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
}

pub fn run(base: &Path, line: &str) {
    nanochat(base, line).assert().success();
}

/// Runs a command that must fail and returns its error: one sentence, without panic, without stdout, without repeated
/// causes.
pub fn complaint(mut command: Command) -> String {
    let failed = command.assert().failure().get_output().clone();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.stdout.is_empty(), "{}", String::from_utf8_lossy(&failed.stdout));
    assert!(matches!(failed.status.code(), Some(1 | 2)), "{}: {said}", failed.status);
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "unwrap()"] {
        assert!(!said.contains(word), "{said}");
    }
    let mut sentences = said.lines().filter(|line| line.starts_with("error:"));
    let sentence = sentences.next().unwrap_or_else(|| panic!("no sentence in: {said}"));
    assert_eq!(sentences.next(), None, "{said}");
    let mut causes: Vec<&str> = sentence.split(": ").collect();
    let all = causes.len();
    causes.sort();
    causes.dedup();
    assert_eq!(causes.len(), all, "a cause is there twice: {sentence}");
    sentence.to_string()
}

/// Asserts that a command fails with a sentence that contains all of `parts`.
#[track_caller]
pub fn refuses(base: &Path, line: &str, parts: &[&str]) {
    let sentence = complaint(nanochat(base, line));
    println!("{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "no {part:?} in the answer to `nanochat {line}`: {sentence}");
    }
}

/// Makes a base folder with a corpus of 200 documents and a tokenizer of 320 tokens.
pub fn prepared() -> TempDir {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let base = tempfile::tempdir().unwrap();
        run(base.path(), "data make --documents 200 --conversations 100");
        run(base.path(), "tok train --vocab-size 320");
        base
    });
    let copied = tempfile::tempdir().unwrap();
    copy(made.path(), copied.path());
    copied
}

/// Makes a base folder like [`prepared`], with a base model `m` trained for 9 steps: checkpoints 3, 6 and 9.
pub fn with_model() -> TempDir {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let base = prepared();
        run(base.path(), &format!("{TINY} --model-tag m --num-iterations 9 --save-every 3 --keep 0"));
        base
    });
    let copied = tempfile::tempdir().unwrap();
    copy(made.path(), copied.path());
    copied
}

/// Makes a base folder like [`with_model`], with a finetuned model and a file of questions that it sometimes answers
/// correctly: the answer must have an `e`.
pub fn with_chat_model() -> (TempDir, PathBuf) {
    let base = with_model();
    run(base.path(), &format!("{TINY_SFT} --num-iterations 4"));
    let questions = base.path().join("questions.jsonl");
    let line = |i| format!("{{\"question\": \"q {i}\", \"answer\": \"e\", \"grade\": \"contains\"}}\n");
    fs::write(&questions, (0..20).map(line).collect::<String>()).unwrap();
    (base, questions)
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Cuts off the last part of a file.
pub fn truncate(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() * 2 / 3]).unwrap();
}

/// Changes a value of a run's settings in train_state.json, as if it had been started with it.
pub fn change_setting(checkpoint: &Path, name: &str, value: Value) {
    let file = checkpoint.join("train_state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_ne!(state["settings"][name], Value::Null, "no setting {name}");
    state["settings"][name] = value;
    fs::write(&file, state.to_string()).unwrap();
}

/// Returns the lines of metrics.jsonl without times, which equal runs have in common.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut values: Value = serde_json::from_str(line).unwrap();
        let object = values.as_object_mut().unwrap();
        object.remove("time").unwrap();
        object.remove("tokens_per_second");
        values
    };
    text.lines().map(line).collect()
}

/// Returns the folders of a run's checkpoints, by name.
pub fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step_")).collect();
    folders.sort();
    folders
}

/// Asserts that two runs ended with the same weights, optimizer state and losses, bit for bit.
#[track_caller]
pub fn assert_same_run(a: &Path, b: &Path) {
    let (last_a, last_b) = (checkpoints(a).pop().unwrap(), checkpoints(b).pop().unwrap());
    assert_eq!(last_a.file_name(), last_b.file_name());
    for file in ["model.safetensors", "optimizer.safetensors", "tokenizer.json", "config.json"] {
        let [a, b] = [&last_a, &last_b].map(|folder| fs::read(folder.join(file)).unwrap());
        assert!(a == b, "{file} differs in {} and {}", last_a.display(), last_b.display());
    }
    assert_eq!(metrics(a), metrics(b));
}

/// Starts a command in the background.
pub fn start(base: &Path, line: &str) -> Child {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("nanochat"));
    command.args(line.split_whitespace()).env("NANOCHAT_BASE_DIR", base);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `file` has `lines` lines; returns false if the process ends before that.
pub fn wait_for_lines(child: &mut Child, file: &Path, lines: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let found = fs::read(file).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
        if found >= lines {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "{} has {found} lines only", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal by name, with the shell's `kill`.
pub fn signal(child: &Child, name: &str) {
    let line = format!("kill -{name} {}", child.id());
    assert!(std::process::Command::new("sh").arg("-c").arg(line).status().unwrap().success());
}

/// Waits for a child and returns its status and stderr.
pub fn ended(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

/// Whether the slow tests are enabled. A slow test that is not prints so and passes.
pub fn slow(test: &str) -> bool {
    let asked = std::env::var("NANOCHAT_SLOW").is_ok_and(|value| value == "1");
    if !asked {
        eprintln!("{test} was skipped: it runs with NANOCHAT_SLOW=1");
    }
    asked
}
