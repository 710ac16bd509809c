//! Compares whole runs on several ranks, which are threads here, with those of one rank.

use std::fs;
use std::path::Path;

use clap::Parser;
use nanochat_tensor::{Comm, Device};
use tempfile::TempDir;

use super::{base, mid, rl, sft};
use crate::model::checkpoint::{Checkpoints, Stage};
use crate::report::metrics::{METRICS_FILE, read_metrics};
use crate::testing::{on_ranks, tokenizer};
use crate::text::dataset::{ShardWriter, Split};

/// Four micro-batches a step: three ranks get unequal shares, and four of eight get none. The model has six matrices,
/// fewer than eight ranks.
const BASE: &str = "--depth 1 --max-seq-len 32 --device-batch-size 1 --total-batch-size 128 --num-iterations 50 \
    --eval-every 20 --eval-tokens 160 --sample-every 0 --sample-prompt x --save-every 10 --keep 0";
const MID: &str = "--num-iterations 50 --eval-every 20 --eval-tokens 160 --save-every 0";
const SFT: &str = "--device-batch-size 2 --target-examples-per-step 6 --num-iterations 50 --init-lr-frac 0.5 \
    --eval-every 20 --save-every 0";
const RL: &str = "--examples-per-step 3 --num-samples 6 --device-batch-size 4 --num-iterations 50 --max-new-tokens 6 \
    --init-lr-frac 0.02 --eval-every 20 --eval-examples 5 --eval-samples 2 --save-every 0";

#[derive(clap::Parser)]
struct Line<S: clap::Args> {
    #[command(flatten)]
    settings: S,
}

/// Parses settings, with f32: in bf16 a sum in another order is sometimes rounded to another value.
fn settings<S: clap::Args>(line: &str) -> S {
    Line::parse_from(["train", "--precision", "f32"].into_iter().chain(line.split_whitespace())).settings
}

/// Runs a stage on `world` ranks.
fn train(stage: Stage, line: &str, dir: &Path, world: usize) {
    let run = |comm: &Comm| match stage {
        Stage::Base => base::run(&settings(line), dir, &Device::Cpu, comm),
        Stage::Mid => mid::run(&settings(line), dir, &Device::Cpu, comm),
        Stage::Sft => sft::run(&settings(line), dir, &Device::Cpu, comm),
        Stage::Rl => rl::run(&settings(line), dir, &Device::Cpu, comm),
    };
    on_ranks(world, |comm| run(&comm).unwrap());
}

/// Makes a folder with some text, a tokenizer, and short conversations that are answered in two ways.
fn prepared() -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&temp.path().join("base_data"), 20_000).unwrap();
    for i in 0..700u32 {
        let text = format!("{} and {} make {}. ", i % 37, i % 11, i % 37 + i % 11).repeat(1 + i as usize % 5);
        writer.push(if i % 10 == 0 { Split::Val } else { Split::Train }, &text).unwrap();
    }
    writer.finish().unwrap();
    fs::create_dir(temp.path().join("tokenizer")).unwrap();
    fs::write(temp.path().join("tokenizer/tokenizer.json"), tokenizer().to_json()).unwrap();
    let line = |i: usize| {
        let answer = if i.is_multiple_of(3) { "no" } else { "yes" };
        format!(
            r#"[{{"role": "user", "content": "q{}"}}, {{"role": "assistant", "content": "{answer}"}}]"#,
            i % 7
        ) + "\n"
    };
    fs::write(temp.path().join("chat.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    temp
}

fn copied(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            match entry.path().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let temp = tempfile::tempdir().unwrap();
    copy(from, temp.path());
    temp
}

/// Returns the values that a stage logged under `name`, by step.
fn curve(dir: &Path, stage: Stage, name: &str) -> Vec<(u64, f64)> {
    let path = Checkpoints::new(dir, stage, "d1").dir().join(METRICS_FILE);
    let lines = read_metrics(&path).unwrap();
    lines.iter().filter_map(|line| Some((line.step, line.get(name)?))).collect()
}

/// Asserts that values are equal within 1e-3, relative unless they are near 0.
#[track_caller]
fn assert_same(got: &[(u64, f64)], want: &[(u64, f64)], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for ((step, got), (at, want)) in got.iter().zip(want) {
        assert_eq!(step, at, "{what}");
        assert!(
            (got - want).abs() <= 1e-3 * want.abs().max(0.1),
            "{what}, step {step}: {got} instead of {want}"
        );
    }
}

/// Trains `stage` on one rank in `dir`, and on more in copies of it.
fn compare(stage: Stage, line: &str, dir: &Path, names: &[&str]) {
    let copies: Vec<(usize, TempDir)> = [2, 3, 4, 8].map(|world| (world, copied(dir))).into();
    train(stage, line, dir, 1);
    for (world, copy) in &copies {
        train(stage, line, copy.path(), *world);
        for name in names {
            let (got, want) = (curve(copy.path(), stage, name), curve(dir, stage, name));
            assert!(want.len() > 2, "{name} was not logged");
            assert_same(&got, &want, &format!("{name} of {} on {world} ranks", stage.name()));
        }
    }
}

#[test]
fn any_number_of_ranks_gives_the_losses_of_one_in_every_stage() {
    let temp = prepared();
    let dir = temp.path();
    let chat = dir.join("chat.jsonl");
    let data = format!("--data {0},reward=exact --val-data {0},reward=exact,limit=20", chat.display());
    compare(Stage::Base, BASE, dir, &["loss", "grad_norm", "val_bpb"]);
    compare(Stage::Mid, &format!("{MID} {data}"), dir, &["loss", "grad_norm", "chat_bpb"]);
    compare(Stage::Sft, &format!("{SFT} {data}"), dir, &["loss", "grad_norm", "val_loss"]);
    compare(Stage::Rl, &format!("{RL} {data}"), dir, &["reward", "policy_loss", "grad_norm", "pass@1"]);
    let steps_learned = curve(dir, Stage::Rl, "policy_loss").len();
    assert!(steps_learned > 30, "only {steps_learned} of 50 steps had better and worse answers");
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let temp = prepared();
    let straight = copied(temp.path());
    train(Stage::Base, BASE, straight.path(), 1);
    let (dir, resume) = (temp.path(), format!("{BASE} --resume"));
    for (world, until) in [(4, 20), (1, 40), (3, 50)] {
        train(Stage::Base, &resume, dir, world);
        // Imitates a run that was stopped there.
        let checkpoints = Checkpoints::new(dir, Stage::Base, "d1");
        checkpoints.steps().into_iter().filter(|&step| step > until).for_each(|step| {
            checkpoints.delete(step).unwrap();
        });
    }
    let [got, want] = [dir, straight.path()].map(|dir| curve(dir, Stage::Base, "loss"));
    assert_eq!(want.len(), 50);
    assert_same(&got, &want, "a run on 4, then 1, then 3 ranks");
}

#[test]
fn all_ranks_stop_when_the_loss_is_no_number() {
    let temp = prepared();
    let line = format!("{BASE} --matrix-lr 1e38 --embedding-lr 1e38 --unembedding-lr 1e38");
    let errors = on_ranks(3, |comm| {
        base::run(&settings(&line), temp.path(), &Device::Cpu, &comm).unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("training stopped at step")), "{errors:?}");
    assert!(errors.iter().all(|error| error[..28] == errors[0][..28]), "{errors:?}");
}
