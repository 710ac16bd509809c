//! kill -9 at random moments, then --resume: the end is the same, bit for bit. Slow tier.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nanochat_tensor::Rng;

use crate::common::*;

/// Runs `line` to its end through `kills` kills, each after a random share of `span` from the start of
/// a process. A run that is over before its kill must pass `check`; what it made is deleted, and it begins anew.
fn kill(base: &Path, made: &Path, line: &str, span: Duration, kills: usize, check: &dyn Fn()) {
    let mut rng = Rng::new(&[kills as u64]);
    let mut left = kills;
    for _ in 0..20 * kills {
        let mut child = start(base, line);
        // Squared: many moments near the start, where a process reads what the last one left.
        let share = rng.below(1_000) as f64 / 1_000.0;
        std::thread::sleep(span.mul_f64(share * share));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            left -= 1;
        }
        let (status, said) = ended(child);
        if status.success() {
            check();
            std::fs::remove_dir_all(made).unwrap();
        } else {
            assert_eq!(status.signal(), Some(9), "{said}");
        }
        if left == 0 {
            run(base, line);
            return check();
        }
    }
    panic!("{left} of {kills} kills are left: the runs were over too soon");
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
    let line =
        |tag: &str| format!("{TINY} --num-iterations 600 --save-every 3 --keep 2 --model-tag {tag} --resume");
    let span = timed(base.path(), &line("whole"));
    let [whole, killed] = ["whole", "killed"].map(|tag| base.path().join("base_checkpoints").join(tag));
    let check = || {
        assert_same_run(&whole, &killed);
        no_leftovers(&killed);
    };
    kill(base.path(), &killed, &line("killed"), span / 4, 30, &check);
}

#[test]
fn an_sft_run_survives_ten_kills() {
    if !slow("an_sft_run_survives_ten_kills") {
        return;
    }
    let base = with_model();
    let line = format!("{TINY_SFT} --num-iterations 600 --save-every 3 --eval-every 10 --resume");
    let span = timed(base.path(), &line);
    let (whole, killed) = (base.path().join("whole"), base.path().join("chatsft_checkpoints/m"));
    std::fs::rename(&killed, &whole).unwrap();
    let check = || {
        assert_same_run(&whole, &killed);
        no_leftovers(&killed);
    };
    kill(base.path(), &killed, &line, span / 3, 10, &check);
}

#[test]
fn a_speedrun_survives_ten_kills() {
    if !slow("a_speedrun_survives_ten_kills") {
        return;
    }
    let (whole, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let line = "speedrun --preset smoke";
    let span = timed(whole.path(), line);
    let base = temp.path().join("base");
    let check = || {
        for run in ["base_checkpoints/d2", "chatsft_checkpoints/d2"] {
            assert_same_run(&whole.path().join(run), &base.join(run));
            no_leftovers(&base.join(run));
        }
        for file in ["base_data/shard_00000.parquet", "chat_data/train.jsonl", "tokenizer/tokenizer.json"] {
            let [a, b] = [whole.path(), &base].map(|dir| std::fs::read(dir.join(file)).unwrap());
            assert!(a == b, "{file}");
        }
        assert!(output(nanochat(&base, "report")).contains("## Chat evaluation"));
    };
    kill(&base, &base, line, span, 10, &check);
}
