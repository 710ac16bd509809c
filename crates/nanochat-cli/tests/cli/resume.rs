//! Tests that a stopped and resumed run equals an undisturbed one, and that nothing saved is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::common::*;
use serde_json::{Value, json};

/// Starts `line`, sends the signal `name` when the run has `lines` lines of metrics, and returns its stderr. Tries
/// again if the run ended before the signal on a busy machine.
fn interrupted(base: &Path, line: &str, run: &Path, lines: usize, name: &str) -> String {
    for _ in 0..5 {
        let mut child = start(base, line);
        assert!(wait_for_lines(&mut child, &run.join("metrics.jsonl"), lines));
        signal(&child, name);
        let (status, said) = ended(child);
        if status.success() {
            fs::remove_dir_all(run).unwrap();
            continue;
        }
        assert_eq!(status.code(), Some(130), "{said}");
        return said;
    }
    panic!("five runs were over before the signal came");
}

#[test]
fn a_base_run_stopped_by_ctrl_c_and_then_by_sigterm_ends_as_if_left_alone() {
    let base = prepared();
    let runs = base.path().join("base_checkpoints");
    let line = |tag: &str| format!("{TINY} --num-iterations 300 --save-every 0 --model-tag {tag}");
    run(base.path(), &line("whole"));

    let cut = runs.join("cut");
    let said = interrupted(base.path(), &line("cut"), &cut, 12, "INT");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("stopped at step ") && last.contains("--resume"), "{said}");
    let [checkpoint] = &checkpoints(&cut)[..] else { panic!("not one checkpoint") };
    assert!(last.contains(checkpoint.to_str().unwrap()), "{said}");

    let resume = format!("{} --resume", line("cut"));
    let mut child = start(base.path(), &resume);
    let lines = metrics(&cut).len();
    assert!(wait_for_lines(&mut child, &cut.join("metrics.jsonl"), lines + 5));
    signal(&child, "TERM");
    let (status, said) = ended(child);
    assert!(said.contains("going on at step"), "{said}");
    if !status.success() {
        assert_eq!(status.code(), Some(130), "{said}");
        run(base.path(), &resume);
    }
    assert_same_run(&runs.join("whole"), &cut);
    // Resumed once more, there is nothing left to do, and nothing changes.
    run(base.path(), &resume);
    assert_same_run(&runs.join("whole"), &cut);
}

#[test]
fn a_mixture_is_measured_by_name_and_ends_as_if_left_alone() {
    let base = prepared();
    let other = base.path().join("other");
    run(base.path(), &format!("data make --seed 7 --documents 60 --base-dir {}", other.display()));
    let (a, b) = (base.path().join("base_data"), other.join("base_data"));
    let (a, b, file) = (a.display(), b.display(), b.join("shard_00001.parquet"));
    let line = |tag: &str| {
        let line = format!("{TINY} --num-iterations 200 --save-every 0 --model-tag {tag}");
        format!("{line} --data a=0.7:{a} --data b=0.3:{b} --val-data file={}", file.display())
    };
    let whole = said(nanochat(base.path(), &line("whole")));
    let last = |what: &str| whole.lines().rfind(|line| line.contains(what)).unwrap().to_string();
    let (bpb, epochs) = (last("val_bpb"), last("epochs"));
    assert!(["file_bpb", "a_bpb", "b_bpb"].iter().all(|name| bpb.contains(name)), "{bpb}");
    // 25,600 tokens: of b, a third as long as a, 0.3 / 0.7 as many.
    let of = |name: &str| -> f64 {
        let value = epochs.split([' ', ',']).skip_while(|word| *word != name).nth(1).unwrap();
        value.parse().unwrap()
    };
    assert!(of("a") > 0.2 && of("b") > 1.1 * of("a"), "{epochs}");

    let cut = base.path().join("base_checkpoints/cut");
    interrupted(base.path(), &line("cut"), &cut, 12, "INT");
    run(base.path(), &format!("{} --resume", line("cut")));
    assert_same_run(&base.path().join("base_checkpoints/whole"), &cut);
    let changed = line("cut").replace("a=0.7", "a=0.6") + " --resume";
    refuses(base.path(), &changed, &["--data", "a=0.7", "a=0.6"]);
    let twice = line("twice").replace("file=", "a=");
    refuses(base.path(), &twice, &["two texts are named a"]);
}

#[test]
fn ctrl_c_ends_the_stages_of_a_speedrun_that_save_nothing() {
    let base = tempfile::tempdir().unwrap();
    run(base.path(), "speedrun --preset smoke");
    let record = base.path().join("speedrun.json");
    let mut rest: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    rest["finished"].as_object_mut().unwrap().retain(|stage, _| stage.starts_with(['d', 't']));
    rest["finished"].as_object_mut().unwrap().retain(|stage, _| !stage.starts_with("train sft"));
    // The finetuning run has no steps left but takes Ctrl-C for its own; the evaluation follows.
    for _ in 0..5 {
        fs::write(&record, rest.to_string()).unwrap();
        let mut child = start(base.path(), "speedrun --preset smoke");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("$ nanochat eval chat")));
        signal(&child, "INT");
        lines.for_each(drop);
        let status = child.wait().unwrap();
        if !status.success() {
            assert_eq!(status.code(), Some(130));
            return;
        }
    }
    panic!("Ctrl-C was not heard five times");
}

#[cfg(unix)]
#[test]
fn a_save_that_fails_loses_nothing_that_was_saved() {
    let (whole, base) = (with_model(), with_model());
    let dir = base.path().join("base_checkpoints/m");
    for step in [6, 9] {
        fs::remove_dir_all(dir.join(format!("step_{step:06}"))).unwrap();
    }
    let resume = format!("{TINY} --model-tag m --num-iterations 9 --save-every 3 --keep 0 --resume");
    // Limits files to 100 blocks (50 or 100 KB, depending on the shell): everything except the weights fits.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let mut command = assert_cmd::Command::new("sh");
    command.args(["-c", limited, "sh"]).arg(assert_cmd::cargo::cargo_bin("nanochat"));
    command.args(resume.split_whitespace()).env("NANOCHAT_BASE_DIR", base.path());
    let sentence = complaint(command);
    for part in ["failed to save", "step_000006", "File too large", "saved before is untouched"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(checkpoints(&dir), [dir.join("step_000003")]);
    run(base.path(), &resume);
    assert_same_run(&whole.path().join("base_checkpoints/m"), &dir);
}

#[test]
fn an_sft_run_stopped_by_ctrl_c_ends_as_if_left_alone() {
    let base = with_model();
    let runs = base.path().join("chatsft_checkpoints");
    let line = format!("{TINY_SFT} --num-iterations 300 --save-every 0");
    run(base.path(), &line);
    fs::rename(runs.join("m"), base.path().join("whole")).unwrap();
    let said = interrupted(base.path(), &line, &runs.join("m"), 12, "INT");
    assert!(said.contains("stopped at step "), "{said}");
    // The tag was the default before and is explicit now: it is the same run.
    run(base.path(), &format!("{line} --resume --model-tag m"));
    assert_same_run(&base.path().join("whole"), &runs.join("m"));
}

#[test]
fn a_mid_run_stopped_by_ctrl_c_ends_as_if_left_alone() {
    let base = with_model();
    let runs = base.path().join("mid_checkpoints");
    // More steps than an epoch has, so that the second epoch is shuffled again.
    let line = format!("{TINY_MID} --num-iterations 300 --save-every 0");
    run(base.path(), &line);
    fs::rename(runs.join("m"), base.path().join("whole")).unwrap();
    let said = interrupted(base.path(), &line, &runs.join("m"), 12, "INT");
    assert!(said.contains("stopped at step "), "{said}");
    run(base.path(), &format!("{line} --resume"));
    assert_same_run(&base.path().join("whole"), &runs.join("m"));
}

#[test]
fn an_rl_run_stopped_by_ctrl_c_ends_as_if_left_alone() {
    let (base, questions) = with_chat_model();
    let runs = base.path().join("chatrl_checkpoints");
    let data = format!("--data {0} --val-data {0}", questions.display());
    // With a KL term and a clip, so that the reference model also matters.
    let line = format!(
        "{TINY_RL} {data} --num-iterations 40 --save-every 0 --kl-coef 0.1 --clip-ratio 0.2 --updates-per-step 2"
    );
    run(base.path(), &line);
    let updates = metrics(&runs.join("m")).iter().filter(|line| line.get("policy_loss").is_some()).count();
    assert!(updates > 20, "{updates} of 40 steps had something to learn from");
    fs::rename(runs.join("m"), base.path().join("whole")).unwrap();
    let said = interrupted(base.path(), &line, &runs.join("m"), 8, "INT");
    assert!(said.contains("stopped at step "), "{said}");
    run(base.path(), &format!("{line} --resume"));
    assert_same_run(&base.path().join("whole"), &runs.join("m"));
}

#[test]
fn a_run_goes_on_with_its_own_settings_and_tokenizer_only() {
    let base = with_model();
    let line = format!("{TINY} --model-tag m --num-iterations 9");
    refuses(base.path(), &line, &["step 9", "--resume", "--overwrite", "--model-tag"]);
    for (change, parts) in [
        ("--num-iterations 10", ["--num-iterations 9", "10"]),
        ("--num-iterations 9 --matrix-lr 0.03", ["--matrix-lr", "0.03"]),
        ("--num-iterations 9 --seed 7", ["--seed 42", "7"]),
        ("--num-iterations 9 --n-kv-head 1", ["--n-kv-head its default", "now it is 1"]),
    ] {
        refuses(base.path(), &format!("{TINY} --model-tag m --resume {change}"), &parts);
    }
    // Another tokenizer of the same size, whose ids mean other text.
    run(base.path(), "tok train --vocab-size 320 --max-chars 9000");
    refuses(base.path(), &format!("{line} --resume"), &["tokenizer", "step_000009", "--overwrite"]);
    run(base.path(), "tok train --vocab-size 300");
    refuses(base.path(), &format!("{line} --resume"), &["tokenizer", "step_000009", "--overwrite"]);
    assert_eq!(checkpoints(&base.path().join("base_checkpoints/m")).len(), 3);
}

#[test]
fn overwrite_keeps_the_old_checkpoints_aside() {
    let base = with_model();
    let dir = base.path().join("base_checkpoints/m");
    let old = fs::read(dir.join("step_000009/model.safetensors")).unwrap();
    let lines = metrics(&dir);
    run(base.path(), &format!("{TINY} --model-tag m --num-iterations 2 --overwrite --seed 1"));
    assert_eq!(checkpoints(&dir), [dir.join("step_000002")]);
    assert_eq!(checkpoints(&dir.join("replaced")).len(), 3);
    assert_eq!(fs::read(dir.join("replaced/step_000009/model.safetensors")).unwrap(), old);
    assert_eq!(metrics(&dir.join("replaced")), lines);
}

#[test]
fn an_overwriting_killed_in_between_loses_nothing() {
    let base = with_model();
    let dir = base.path().join("base_checkpoints/m");
    let old = fs::read(dir.join("step_000009/model.safetensors")).unwrap();
    let lines = metrics(&dir);
    let name = |folder: &Path| folder.file_name().unwrap().to_owned();
    // After the first of three checkpoints; after all of them; and while the replaced run was being removed.
    for moved in [1, 3, 4] {
        fs::create_dir(dir.join("replacing")).unwrap();
        for folder in checkpoints(&dir).iter().take(moved) {
            fs::rename(folder, dir.join("replacing").join(name(folder))).unwrap();
        }
        if moved == 4 {
            fs::rename(dir.join("metrics.jsonl"), dir.join("replacing/metrics.jsonl")).unwrap();
            fs::create_dir_all(dir.join("deleting_replaced/step_000001")).unwrap();
        }
        run(
            base.path(),
            &format!("{TINY} --model-tag m --num-iterations 9 --keep 0 --save-every 3 --resume"),
        );
        assert_eq!((checkpoints(&dir).len(), metrics(&dir) == lines), (3, true));
        assert!(!dir.join("replacing").exists());
        assert_eq!(dir.join("replaced/step_000001").exists(), moved == 4);
    }
    fs::create_dir(dir.join("replacing")).unwrap();
    fs::rename(dir.join("step_000003"), dir.join("replacing/step_000003")).unwrap();
    run(base.path(), &format!("{TINY} --model-tag m --num-iterations 2 --overwrite --seed 1"));
    let replaced = checkpoints(&dir.join("replaced"));
    assert_eq!(
        replaced.iter().map(|folder| name(folder)).collect::<Vec<_>>(),
        ["step_000003", "step_000006", "step_000009"]
    );
    assert_eq!(fs::read(replaced[2].join("model.safetensors")).unwrap(), old);
    assert!(!dir.join("deleting_replaced").exists() && !dir.join("replacing").exists());
}

#[test]
fn a_second_process_in_the_same_run_is_refused() {
    let base = prepared();
    let line = format!("{TINY} --num-iterations 100000 --model-tag long");
    let mut child = start(base.path(), &line);
    let dir = base.path().join("base_checkpoints/long");
    assert!(wait_for_lines(&mut child, &dir.join("metrics.jsonl"), 3));
    refuses(base.path(), &line, &["another process", dir.to_str().unwrap()]);
    refuses(base.path(), &format!("{line} --overwrite"), &["another process"]);
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock ends with the process, however it ended.
    run(base.path(), &format!("{TINY} --num-iterations 2 --model-tag long --resume"));
}

#[test]
fn keep_is_how_many_checkpoints_stay() {
    let base = prepared();
    for (keep, expected) in [(0, 4), (1, 1), (3, 3)] {
        let tag = format!("k{keep}");
        run(
            base.path(),
            &format!("{TINY} --num-iterations 8 --save-every 2 --keep {keep} --model-tag {tag}"),
        );
        assert_eq!(checkpoints(&base.path().join("base_checkpoints").join(tag)).len(), expected);
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_good_checkpoint() {
    let base = with_model();
    let dir = base.path().join("base_checkpoints/m");
    for step in [6, 9] {
        fs::remove_dir_all(dir.join(format!("step_{step:06}"))).unwrap();
    }
    let good = dir.join("step_000003");
    let before = fs::read(good.join("model.safetensors")).unwrap();
    for name in ["matrix_lr", "embedding_lr", "unembedding_lr"] {
        change_setting(&good, name, json!(1e38));
    }
    let rates = "--matrix-lr 1e38 --embedding-lr 1e38 --unembedding-lr 1e38";
    // --save-every 1 saves the broken weights before their loss is known.
    let line = format!("{TINY} --model-tag m --num-iterations 9 --save-every 1 --keep 1 --resume {rates}");
    refuses(base.path(), &line, &["training stopped at step", "last checkpoint is of step 3", "NaN"]);
    assert_eq!(checkpoints(&dir), std::slice::from_ref(&good));
    assert!(before == fs::read(good.join("model.safetensors")).unwrap());
    run(base.path(), "eval bpb --eval-tokens 64 --source base");

    // If the last step breaks them, no loss follows, and the evaluation reports it.
    let line = format!("{TINY} --model-tag one --num-iterations 1 {rates}");
    refuses(base.path(), &line, &["training stopped at step 1", "there is no checkpoint", "NaN"]);
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_one_to_go_back_to() {
    let base = with_model();
    let dir = base.path().join("base_checkpoints/m");
    let resume = format!("{TINY} --model-tag m --num-iterations 9 --save-every 3 --keep 0 --resume");
    let whole = tempfile::tempdir().unwrap();
    copy(&dir, whole.path());
    let files =
        ["model.safetensors", "optimizer.safetensors", "train_state.json", "tokenizer.json", "config.json"];
    for file in files {
        truncate(&dir.join("step_000009").join(file));
        let path = dir.join("step_000009").join(file);
        let advice = format!("delete {} to go on from step 6", dir.join("step_000009").display());
        refuses(base.path(), &resume, &[path.to_str().unwrap(), &advice]);
        fs::copy(whole.path().join("step_000009").join(file), path).unwrap();
    }
    // The advice works and reaches the same end.
    fs::remove_dir_all(dir.join("step_000009")).unwrap();
    run(base.path(), &resume);
    assert_same_run(whole.path(), &dir);

    for step in [3, 6] {
        fs::remove_dir_all(dir.join(format!("step_{step:06}"))).unwrap();
    }
    fs::remove_file(dir.join("step_000009/optimizer.safetensors")).unwrap();
    refuses(base.path(), &resume, &["optimizer.safetensors", "no earlier one", "--overwrite"]);
}

#[test]
fn what_a_killed_process_left_half_written_is_swept_away() {
    let base = with_model();
    let dir = base.path().join("base_checkpoints/m");
    for half in ["saving_000005", "deleting_000001"] {
        fs::create_dir(dir.join(half)).unwrap();
        fs::write(dir.join(half).join("model.safetensors"), "half").unwrap();
    }
    fs::write(dir.join("metrics.jsonl.77.tmp"), "{").unwrap();
    let mut cut = fs::read(dir.join("metrics.jsonl")).unwrap();
    cut.extend(b"{\"step\":9,\"ti");
    fs::write(dir.join("metrics.jsonl"), cut).unwrap();
    run(base.path(), &format!("{TINY} --model-tag m --num-iterations 9 --resume"));
    let mut names: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with("events.out.tfevents."));
    names.sort();
    assert_eq!(names, ["metrics.jsonl", "run.lock", "step_000003", "step_000006", "step_000009"]);
}
