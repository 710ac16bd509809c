//! Tests kill -9 at random moments. Training resumes with --resume and ends the same, bit for bit; the output of other
//! commands is whole or absent, and the next start removes leftovers. Slow tier, except for two writers of one folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nanochat_tensor::Rng;

use crate::common::*;

/// Returns the number of kills: `usual`, or NANOCHAT_KILLS.
fn kills(usual: usize) -> usize {
    std::env::var("NANOCHAT_KILLS").map_or(usual, |kills| kills.parse().unwrap())
}

/// Runs `line` to its end through `kills` kills, each after a random share of `span` from the start of a process. A run
/// that ends before its kill must pass `check`; its output is deleted, and it starts again.
fn kill(base: &Path, made: &Path, line: &str, span: Duration, kills: usize, check: &dyn Fn()) {
    let mut rng = Rng::new(&[kills as u64]);
    let mut left = kills;
    for _ in 0..20 * kills {
        let mut child = start(base, line);
        // Squared, for more kills near the start, where a process reads what the last one left.
        let share = rng.below(1_000) as f64 / 1_000.0;
        std::thread::sleep(span.mul_f64(share * share));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            left -= 1;
        }
        let (status, said) = ended(child);
        if status.success() {
            check();
            fs::remove_dir_all(made).unwrap();
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
    for entry in fs::read_dir(run).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let left = ["saving_", "deleting_"].iter().any(|start| name.starts_with(start));
        assert!(!left && !name.ends_with(".tmp") && !name.ends_with(".partial"), "{name} was left");
    }
}

#[test]
fn a_base_run_survives_kills() {
    if !slow("a_base_run_survives_kills") {
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
    kill(base.path(), &killed, &line("killed"), span / 4, kills(30), &check);
}

#[test]
fn an_sft_run_survives_kills() {
    if !slow("an_sft_run_survives_kills") {
        return;
    }
    let base = with_model();
    let line = format!("{TINY_SFT} --num-iterations 600 --save-every 3 --eval-every 10 --resume");
    let span = timed(base.path(), &line);
    let (whole, killed) = (base.path().join("whole"), base.path().join("chatsft_checkpoints/m"));
    fs::rename(&killed, &whole).unwrap();
    let check = || {
        assert_same_run(&whole, &killed);
        no_leftovers(&killed);
    };
    kill(base.path(), &killed, &line, span / 3, kills(10), &check);
}

#[test]
fn a_speedrun_survives_kills() {
    if !slow("a_speedrun_survives_kills") {
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
            let [a, b] = [whole.path(), &base].map(|dir| fs::read(dir.join(file)).unwrap());
            assert!(a == b, "{file}");
        }
        assert!(output(nanochat(&base, "report")).contains("## Chat evaluation"));
    };
    kill(&base, &base, line, span, kills(10), &check);
}

/// Returns a file, or the files below a folder, with their contents.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    match path.is_dir() {
        true => fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect(),
        false => [(path.into(), fs::read(path).unwrap())].into(),
    }
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

/// Returns all names below a folder, including folders.
fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let below =
        |path: PathBuf| if path.is_dir() { [vec![path.clone()], names(&path)].concat() } else { vec![path] };
    let mut names: Vec<PathBuf> = entries.flat_map(below).collect();
    names.sort();
    names
}

/// Kills `line` in a copy of `base`, 5 times or NANOCHAT_KILLS times. After each kill, each of the files and folders
/// `made` is whole or absent; after the next start all are whole, and there are no files that an undisturbed run does
/// not make.
pub fn whole_or_absent(base: &Path, line: &str, made: &[&str]) {
    let kills = kills(5);
    let span = timed(base, line);
    let expected = names(base);
    let whole: Vec<_> = made.iter().map(|name| files(&base.join(name))).collect();
    let mut rng = Rng::new(&[kills as u64, line.len() as u64]);
    let (mut left, mut absent) = (kills, 0);
    for _ in 0..20 * kills {
        made.iter().for_each(|name| remove(&base.join(name)));
        let mut child = start(base, line);
        std::thread::sleep(span.mul_f64(rng.below(1_000) as f64 / 1_000.0));
        child.kill().unwrap();
        let killed = ended(child).0.signal() == Some(9);
        let there: Vec<bool> = made.iter().map(|name| base.join(name).exists()).collect();
        for ((name, whole), there) in made.iter().zip(&whole).zip(&there) {
            assert!(!there || files(&base.join(name)) == *whole, "`{line}` left half of {name}");
        }
        let next = nanochat(base, line).output().unwrap();
        let said = String::from_utf8_lossy(&next.stderr);
        let refused = there.iter().all(|there| *there) && said.contains("already exists");
        assert!(next.status.success() || refused, "{said}");
        assert_eq!(names(base), expected, "`{line}` left something");
        for (name, whole) in made.iter().zip(&whole) {
            assert!(files(&base.join(name)) == *whole, "{name} of `{line}` is another one after a kill");
        }
        left -= usize::from(killed);
        absent += usize::from(killed && there.contains(&false));
        if left == 0 {
            return println!("{kills} kills of `{line}` in {span:?}: {absent} times absent, else whole");
        }
    }
    panic!("{left} of {kills} kills are left: the runs of `{line}` were over too soon");
}

#[test]
fn what_a_killed_command_writes_is_whole_or_absent() {
    if !slow("what_a_killed_command_writes_is_whole_or_absent") {
        return;
    }
    let base = prepared();
    let at = |name: &str| base.path().join(name).display().to_string();
    let (data, tokenizer) = (at("base_data"), at("tokenizer/tokenizer.json"));
    let elsewhere = tempfile::tempdir().unwrap();
    let imported = elsewhere.path().join("tokenizer.json");
    fs::copy(tokenizer, &imported).unwrap();
    let check = |line: &str, made: &[&str]| whole_or_absent(base.path(), line, made);
    check(&format!("data clean {data} --no-rules --out {}", at("cleaned")), &["cleaned"]);
    check(&format!("data mix all=1:{data} --out {}", at("mixed")), &["mixed"]);
    check(&format!("data ingest {data} --out {}", at("ingested")), &["ingested"]);
    check(&format!("tok import {}", imported.display()), &["tokenizer/tokenizer.json"]);
    check("tok train --vocab-size 320", &["tokenizer/tokenizer.json"]);
    let model = with_model();
    let out = model.path().join("out");
    whole_or_absent(model.path(), &format!("export {}", out.display()), &["out"]);
    let made = tempfile::tempdir().unwrap();
    let make = "data make --documents 3000 --conversations 500";
    whole_or_absent(made.path(), make, &["base_data", "chat_data"]);
}

/// A report contains its time, so that no two are alike, and sections that other commands wrote.
#[test]
fn a_killed_report_and_evaluation_leave_whole_files() {
    if !slow("a_killed_report_and_evaluation_leave_whole_files") {
        return;
    }
    let base = with_model();
    let report = base.path().join("report/m");
    run(base.path(), "eval bpb --eval-tokens 64");
    run(base.path(), "report");
    let expected = names(base.path());
    let check = || {
        run(base.path(), "report"); // reads all sections
        assert_eq!(names(base.path()), expected);
        assert!(fs::read_to_string(report.join("report.html")).unwrap().trim_end().ends_with("</html>"));
        assert!(fs::read_to_string(report.join("report.md")).unwrap().ends_with('\n'));
    };
    let kills = kills(5);
    for line in ["report", "eval bpb --eval-tokens 64"] {
        let span = timed(base.path(), line);
        for index in 0..kills {
            let mut child = start(base.path(), line);
            std::thread::sleep(
                span.mul_f64(Rng::new(&[kills as u64, index as u64]).below(1_000) as f64 / 1_000.0),
            );
            child.kill().unwrap();
            ended(child);
            let html = fs::read_to_string(report.join("report.html")).unwrap();
            assert!(html.trim_end().ends_with("</html>"), "`{line}` left half a report");
            run(base.path(), line);
            check();
        }
    }
}

#[test]
fn of_two_makers_of_one_folder_one_wins_and_the_other_says_so() {
    let base = tempfile::tempdir().unwrap();
    let mut first = start(base.path(), "data make --documents 20000 --conversations 100");
    let content = base.path().join("base_data.partial/content");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !content.exists() {
        assert!(first.try_wait().unwrap().is_none() && Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&first, "STOP");
    let second = "data make --documents 100 --conversations 100";
    refuses(base.path(), second, &["another process is making", "base_data", "stop it first"]);
    signal(&first, "CONT");
    let (status, said) = ended(first);
    assert!(status.success(), "{said}");
    let names = names(base.path());
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("partial")), "{names:?}");
    assert!(output(nanochat(base.path(), "data stats")).contains("20000"));
}

#[test]
fn a_folder_of_the_user_named_partial_survives() {
    let base = tempfile::tempdir().unwrap();
    let partial = base.path().join("base_data.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("diary"), "mine").unwrap();
    let make = "data make --documents 100 --conversations 100";
    refuses(base.path(), make, &["base_data.partial", "nanochat did not make", "move it away"]);
    assert_eq!(fs::read(partial.join("diary")).unwrap(), b"mine");
    assert_eq!(names(base.path()), [partial.clone(), partial.join("diary")]);
}
