//! kill -9 at random moments, then --resume: the end is the same, bit for bit. Slow tier.

use std::path::Path;
use std::time::{Duration, Instant};

use nanochat_tensor::Rng;

use crate::common::*;

/// Runs `line` in `base` to its end, through `kills` kills after random shares of the `whole` time that it
/// takes alone. Returns how many of them met it alive.
fn killed(base: &Path, line: &str, whole: Duration, kills: usize, rng: &mut Rng) -> usize {
    let mut alive = 0;
    for _ in 0..kills {
        let mut child = start(base, line);
        // The moments crowd at the start, where a process that goes on reads what the last one left.
        let share = rng.below(1_000) as f64 / 1_000.0;
        std::thread::sleep(whole.mul_f64(share * share));
        match child.try_wait().unwrap() {
            None => alive += 1,
            Some(status) => assert!(status.success(), "{}", ended(child).1),
        }
        if child.kill().is_ok() {
            child.wait().unwrap();
        }
    }
    run(base, line);
    alive
}

fn timed(base: &Path, line: &str) -> Duration {
    let started = Instant::now();
    run(base, line);
    started.elapsed()
}

fn no_leftovers(run: &Path) {
    for entry in std::fs::read_dir(run).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let left = ["saving_", "deleting_"].iter().any(|start| name.starts_with(start));
        assert!(!left && !name.ends_with(".tmp") && !name.ends_with(".partial"), "{name} was left");
    }
}

#[test]
fn a_base_run_survives_thirty_kills() {
    if !slow("a_base_run_survives_thirty_kills") {
        return;
    }
    let base = prepared();
    let runs = base.path().join("base_checkpoints");
    let line =
        |tag: &str| format!("{TINY} --num-iterations 600 --save-every 3 --keep 2 --model-tag {tag} --resume");
    let whole = timed(base.path(), &line("whole"));
    let alive = killed(base.path(), &line("killed"), whole / 4, 30, &mut Rng::new(&[1]));
    assert!(alive >= 20, "only {alive} kills met the run alive");
    assert_same_run(&runs.join("whole"), &runs.join("killed"));
    no_leftovers(&runs.join("killed"));
}

#[test]
fn an_sft_run_survives_ten_kills() {
    if !slow("an_sft_run_survives_ten_kills") {
        return;
    }
    let base = with_model();
    let runs = base.path().join("chatsft_checkpoints");
    let line = format!("{TINY_SFT} --num-iterations 600 --save-every 3 --eval-every 10 --resume");
    let whole = timed(base.path(), &line);
    let untouched = base.path().join("whole");
    std::fs::rename(runs.join("m"), &untouched).unwrap();
    let alive = killed(base.path(), &line, whole / 3, 10, &mut Rng::new(&[2]));
    assert!(alive >= 6, "only {alive} kills met the run alive");
    assert_same_run(&untouched, &runs.join("m"));
    no_leftovers(&runs.join("m"));
}

#[test]
fn a_speedrun_survives_ten_kills() {
    if !slow("a_speedrun_survives_ten_kills") {
        return;
    }
    let (alone, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let line = "speedrun --preset smoke";
    let whole = timed(alone.path(), line);
    let alive = killed(base.path(), line, whole, 10, &mut Rng::new(&[3]));
    assert!(alive >= 5, "only {alive} kills met the speedrun alive");
    for run in ["base_checkpoints/d2", "chatsft_checkpoints/d2"] {
        assert_same_run(&alone.path().join(run), &base.path().join(run));
        no_leftovers(&base.path().join(run));
    }
    for file in ["base_data/shard_00000.parquet", "chat_data/train.jsonl", "tokenizer/tokenizer.json"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
        assert!(read(alone.path()) == read(base.path()), "{file}");
    }
    no_leftovers(base.path());
    assert!(output(nanochat(base.path(), "report")).contains("## Chat evaluation"));
}
