//! Tests a base folder on a full disk. Slow tier, because it mounts disks, which needs root and Linux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::common::*;
use crate::downloads::serve;

/// A disk of a few MB, unmounted at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "nanochat-test"])
            .arg(dir.path())
            .status();
        assert!(mounted.is_ok_and(|status| status.success()), "mounting a tmpfs takes root and Linux");
        Disk(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk up to `room` bytes and returns the file that does so.
    fn fill(&self, room: usize) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        let size = file.metadata().unwrap().len();
        file.set_len(size.saturating_sub(room as u64)).unwrap();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status(); // may fail while busy
    }
}

/// Asserts that `line` fails, and that its error names the disk.
#[track_caller]
fn fails_for_space(base: &Path, line: &str, parts: &[&str]) {
    let failed = nanochat(base, line).assert().code(1).get_output().clone();
    let said = String::from_utf8(failed.stderr).unwrap();
    let sentence = said.lines().last().unwrap();
    assert!(sentence.starts_with("error: ") && !said.contains("panicked"), "{said}");
    println!("{sentence}");
    for part in parts.iter().chain(&["No space left"]) {
        assert_eq!(sentence.matches(part).count().min(2), 1, "{part:?} once in: {sentence}");
    }
}

#[test]
fn training_loses_nothing_and_goes_on_when_there_is_room() {
    if !slow("training_loses_nothing_and_goes_on_when_there_is_room") {
        return;
    }
    let (whole, disk) = (with_model(), Disk::new("16m"));
    let dir = disk.path().join("base_checkpoints/m");
    copy(whole.path(), disk.path());
    for step in [6, 9] {
        fs::remove_dir_all(dir.join(format!("step_{step:06}"))).unwrap();
    }
    let saved = fs::read(dir.join("step_000003/model.safetensors")).unwrap();
    let line = format!("{TINY} --model-tag m --num-iterations 9 --save-every 3 --keep 0 --resume");
    // The space ends in the middle of the model, of the optimizer state, and before either.
    for room in [300_000, 900_000, 24_000] {
        let ballast = disk.fill(room);
        fails_for_space(disk.path(), &line, &["step_000006", "what was saved before is untouched"]);
        assert_eq!(checkpoints(&dir), [dir.join("step_000003")]);
        assert!(saved == fs::read(dir.join("step_000003/model.safetensors")).unwrap());
        run(disk.path(), "eval bpb --eval-tokens 64");
        fs::remove_file(ballast).unwrap();
    }
    run(disk.path(), &line);
    assert_same_run(&whole.path().join("base_checkpoints/m"), &dir);
}

#[test]
fn metrics_that_cannot_be_written_stop_the_run() {
    if !slow("metrics_that_cannot_be_written_stop_the_run") {
        return;
    }
    let (made, disk) = (prepared(), Disk::new("8m"));
    copy(made.path(), disk.path());
    let ballast = disk.fill(32_000);
    let line = format!("{TINY} --model-tag m --num-iterations 3000");
    fails_for_space(disk.path(), &line, &["metrics", "base_checkpoints/m"]);
    fs::remove_file(ballast).unwrap();
    run(disk.path(), &format!("{TINY} --model-tag m --num-iterations 3 --resume"));
}

#[test]
fn a_download_keeps_what_has_arrived() {
    if !slow("a_download_keeps_what_has_arrived") {
        return;
    }
    let disk = Disk::new("8m");
    let content: Vec<u8> =
        (0..500_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let asked = Arc::default();
    let line = format!("data download {}", serve(content.clone(), Arc::clone(&asked), Arc::default()));
    let ballast = disk.fill(600_000);
    fails_for_space(disk.path(), &line, &["file.bin.part", "run the same command"]);
    fs::remove_file(ballast).unwrap();
    run(disk.path(), &line);
    assert!(fs::read(disk.path().join("downloads/file.bin")).unwrap() == content);
    let from = asked.lock().unwrap()[1];
    assert!(from.is_some_and(|from| from > 100_000), "it went on at {from:?}");
}

#[test]
fn data_and_tokenizer_are_whole_or_not_there() {
    if !slow("data_and_tokenizer_are_whole_or_not_there") {
        return;
    }
    let disk = Disk::new("4m");
    let make = "data make --documents 20000 --conversations 200";
    for room in [0, 8_000, 400_000] {
        let ballast = disk.fill(room);
        fails_for_space(disk.path(), make, &["base_data.partial"]);
        assert!(!disk.path().join("base_data").exists());
        fs::remove_file(ballast).unwrap();
    }
    run(disk.path(), "data make --documents 200 --conversations 200");
    for room in [0, 8_000] {
        let ballast = disk.fill(room);
        fails_for_space(disk.path(), "tok train --vocab-size 320", &["tokenizer.json"]);
        assert!(!disk.path().join("tokenizer/tokenizer.json").exists());
        fs::remove_file(ballast).unwrap();
    }
    run(disk.path(), "tok train --vocab-size 320");
    disk.fill(0);
    let old = fs::read(disk.path().join("tokenizer/tokenizer.json")).unwrap();
    fails_for_space(disk.path(), "tok train --vocab-size 300", &["tokenizer.json"]);
    assert!(old == fs::read(disk.path().join("tokenizer/tokenizer.json")).unwrap());
}
