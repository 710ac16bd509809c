//! Tests the main path: a speedrun, its results, and the commands that use them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::*;

const SMOKE: &str = "speedrun --preset smoke";

/// The files of a checkpoint: those that transformers loads, and those for training.
const MODEL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const STATE_FILES: [&str; 2] = ["train_state.json", "optimizer.safetensors"];

fn assert_files(folder: &Path, names: &[&str]) {
    for name in names {
        let size = fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
        assert!(size > 0, "{} is missing or empty", folder.join(name).display());
    }
}

fn assert_run(run: &Path) {
    let last = checkpoints(run).pop().unwrap();
    assert_files(&last, &MODEL_FILES);
    assert_files(&last, &STATE_FILES);
    let config: Value = serde_json::from_slice(&fs::read(last.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "nanochat");
    let steps: Vec<u64> = metrics(run).iter().filter_map(|line| line["step"].as_u64()).collect();
    assert!(steps.is_sorted() && steps.len() > 9, "{steps:?}");
    let events = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(events.filter(|name| name.to_str().unwrap().contains("tfevents")).count(), 1);
}

/// Asserts that every chart of the report is a file beside it, under a name that is valid in a markdown link.
fn assert_report(base: &Path) {
    let folder = base.join("report/d2");
    let report = fs::read_to_string(folder.join("report.md")).unwrap();
    for title in [
        "Environment",
        "Summary",
        "Tokenizer",
        "Base training",
        "Mid-training",
        "Chat finetuning",
        "Chat evaluation after sft",
        "Reinforcement learning",
        "Chat evaluation after rl",
    ] {
        assert!(report.contains(&format!("## {title}\n")), "{report}");
    }
    let pictures: Vec<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("![")?.split_once("](")?.1.strip_suffix(')'))
        .collect();
    assert_eq!(pictures.len(), 6, "{report}");
    for picture in pictures {
        assert!(!picture.contains(' '), "{picture}");
        assert!(fs::read_to_string(folder.join(picture)).unwrap().starts_with("<svg"));
    }
}

#[test]
fn a_speedrun_makes_everything_and_a_second_one_skips_it() {
    let base = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let first = said(nanochat(base.path(), SMOKE));
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    for stage in ["data make", "tok train", "train base", "train mid", "train sft", "eval chat", "train rl"] {
        assert!(first.contains(&format!("$ nanochat {stage}")), "{first}");
    }
    assert!(first.ends_with("now run `nanochat chat`\n"), "{first}");
    assert_files(base.path(), &["base_data/shard_00000.parquet", "base_data/shard_00001.parquet"]);
    assert_files(&base.path().join("chat_data"), &["train.jsonl", "test.jsonl", "questions.jsonl"]);
    assert_files(base.path(), &["tokenizer/tokenizer.json"]);
    assert_run(&base.path().join("base_checkpoints/d2"));
    assert_run(&base.path().join("mid_checkpoints/d2"));
    assert_run(&base.path().join("chatsft_checkpoints/d2"));
    assert_run(&base.path().join("chatrl_checkpoints/d2"));
    assert_report(base.path());

    let model = base.path().join("base_checkpoints/d2/step_000020/model.safetensors");
    let made = fs::metadata(&model).unwrap().modified().unwrap();
    let second = said(nanochat(base.path(), SMOKE));
    assert_eq!(second.matches("done before").count(), 8, "{second}");
    assert_eq!(fs::metadata(&model).unwrap().modified().unwrap(), made);

    refuses(base.path(), &format!("{SMOKE} --name Ada"), &["other settings", "--base-dir"]);
    let answer = output(nanochat(base.path(), "chat -p 1+1 --temperature 0 --max-tokens 8"));
    assert!(!answer.is_empty());
    assert!(output(nanochat(base.path(), "report")).starts_with("# nanochat report"));
}

#[test]
fn a_speedrun_of_one_language_speaks_it_and_reports_in_it() {
    let base = tempfile::tempdir().unwrap();
    run(base.path(), &format!("{SMOKE} --lang zh --name 小纳 --no-rl"));
    let chat = fs::read_to_string(base.path().join("chat_data/train.jsonl")).unwrap();
    let questions = fs::read_to_string(base.path().join("chat_data/questions.jsonl")).unwrap();
    assert!(chat.contains("小纳") && !chat.contains("I am") && !questions.contains("english"));
    let report = fs::read_to_string(base.path().join("report/d2/report.md")).unwrap();
    assert!(report.starts_with("# nanochat 报告"), "{report}");
    refuses(base.path(), &format!("{SMOKE} --lang mix --name 小纳"), &["--lang zh", "--base-dir"]);
    run(base.path(), &format!("{SMOKE} --lang zh --name 小纳 --no-rl --report-lang en"));
    let report = fs::read_to_string(base.path().join("report/d2/report.md")).unwrap();
    assert!(report.starts_with("# nanochat report"), "{report}");
}

#[test]
fn a_speedrun_killed_after_the_base_stage_goes_on() {
    let base = tempfile::tempdir().unwrap();
    let mut child = start(base.path(), SMOKE);
    // SFT has logged a line, so base is finished.
    wait_for_lines(&mut child, &base.path().join("chatsft_checkpoints/d2/metrics.jsonl"), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = said(nanochat(base.path(), SMOKE));
    assert!(rest.matches("done before").count() >= 3, "{rest}");
    assert_report(base.path());
}

#[test]
fn a_speedrun_killed_when_its_data_was_just_complete_goes_on() {
    let base = tempfile::tempdir().unwrap();
    let make = "data make --documents 400 --conversations 300 --name nanochat";
    run(base.path(), make);
    let record =
        format!(r#"{{"preset": "smoke", "name": "nanochat", "finished": {{}}, "started": "{make}"}}"#);
    fs::write(base.path().join("speedrun.json"), record).unwrap();
    assert!(said(nanochat(base.path(), SMOKE)).ends_with("now run `nanochat chat`\n"));

    // The user's own data is never mistaken for a killed speedrun's, however often one tries.
    let other = tempfile::tempdir().unwrap();
    run(other.path(), make);
    for _ in 0..2 {
        let mut command = nanochat(other.path(), SMOKE);
        let failed = String::from_utf8(command.assert().failure().get_output().stderr.clone()).unwrap();
        assert!(failed.contains("base_data already exists and is not empty"), "{failed}");
    }
}

#[test]
fn chat_answers_and_repeats_itself_when_asked_to() {
    let base = with_model();
    run(base.path(), &format!("{TINY_SFT} --num-iterations 10"));
    let chat = |line: &str| output(nanochat(base.path(), &format!("chat --max-tokens 8 {line}")));
    assert_eq!(chat("-p hello --temperature 0"), chat("-p hello --temperature 0"));
    assert_eq!(chat("-p hello --temperature 1 --seed 5"), chat("-p hello --temperature 1 --seed 5"));
    assert_ne!(chat("-p hello --temperature 1 --seed 5"), chat("-p hello --temperature 1 --seed 6"));
    let three = chat("-p hello --temperature 1 --samples 3");
    let numbers: Vec<&str> =
        three.lines().filter(|line| ["[1]", "[2]", "[3]", "[4]"].contains(line)).collect();
    assert_eq!(numbers, ["[1]", "[2]", "[3]"], "{three}");

    let mut piped = nanochat(base.path(), "chat --max-tokens 8 --temperature 0");
    piped.write_stdin("hello\n");
    assert_eq!(output(piped), chat("-p hello --temperature 0"));
    // A base model continues the text instead.
    let continued = chat("--source base -p The --temperature 0");
    assert_ne!(continued, chat("-p The --temperature 0"));
    assert_eq!(continued, chat("--source base --model-tag m --step 9 -p The --temperature 0"));
}

#[test]
fn an_exported_folder_chats_and_is_not_written_over() {
    let base = with_model();
    let out = base.path().join("out");
    let export = format!("export {} --dtype bf16", out.display());
    run(base.path(), &export);
    assert_files(&out, &MODEL_FILES);
    for file in STATE_FILES {
        assert!(!out.join(file).exists(), "{file}");
    }
    let size = |folder: &Path| fs::metadata(folder.join("model.safetensors")).unwrap().len();
    let (half, whole) = (size(&out), size(&base.path().join("base_checkpoints/m/step_000009")));
    assert!(half * 19 / 10 < whole && whole < half * 2, "{half} and {whole} bytes");
    let nowhere = tempfile::tempdir().unwrap();
    let chat = format!("chat -m {} -p hello --max-tokens 8", out.display());
    output(nanochat(nowhere.path(), &chat));
    refuses(base.path(), &export, &["out already exists"]);
}

#[test]
fn a_config_file_and_underscores_are_the_same_flags() {
    let base = prepared();
    let runs = base.path().join("base_checkpoints");
    run(base.path(), &format!("{TINY} --num-iterations 4 --matrix-lr 0.03 --model-tag flags"));
    let toml = "depth = 1\nmax_seq_len = 64\ndevice-batch-size = 2\ntotal_batch_size = 128\neval_tokens = 256\n\
                eval_every = 10\nsample_every = 0\nsample_prompt = ['x']\nnum_iterations = 99\nmatrix_lr = 0.03\n";
    let file = base.path().join("run.toml");
    fs::write(&file, toml).unwrap();
    let config = format!("train base --config {} --num-iterations 4 --model-tag file", file.display());
    run(base.path(), &config);
    assert_same_run(&runs.join("flags"), &runs.join("file"));
    let underscores = format!("{TINY} --num_iterations 4 --matrix_lr=0.03 --model_tag under_scores");
    run(base.path(), &underscores);
    assert_same_run(&runs.join("flags"), &runs.join("under_scores"));
}

#[test]
fn a_recorded_run_learns_the_same_and_leaves_a_trace() {
    let base = prepared();
    let runs = base.path().join("base_checkpoints");
    run(base.path(), &format!("{TINY} --num-iterations 6 --model-tag plain"));
    let recorded = format!("{TINY} --num-iterations 6 --model-tag recorded --profile 2 --recompute block");
    let said = said(nanochat(base.path(), &recorded));
    assert!(said.contains("2 steps recorded") && said.contains("linear backward"), "{said}");
    assert_same_run(&runs.join("plain"), &runs.join("recorded"));
    let text = fs::read_to_string(runs.join("recorded/profile.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!(["feeding", "forward", "backward", "optimizer"].map(count), [2; 4]);
}

/// Runs on machines without a GPU; GPUs are tested beside the kernels.
#[test]
fn a_gpu_that_is_not_there_is_said_in_a_sentence() {
    let base = prepared();
    let doctor = nanochat(base.path(), "--device cuda doctor").output().unwrap();
    if doctor.status.success() {
        println!("skipped: there is a GPU");
        return;
    }
    let told = String::from_utf8(doctor.stdout).unwrap();
    assert!(told.contains("driver") && !told.contains("nanochat doctor"), "{told}");
    let train = format!("--device cuda {TINY} --num-iterations 1");
    for line in [&train, "--device cuda bench train", "--device cuda speedrun"] {
        refuses(base.path(), line, &["`nanochat doctor`"]);
    }
    assert!(!base.path().join("speedrun.json").exists(), "nothing was begun");
}

/// Returns the shell commands at the end of a plan.
fn planned_commands(base: &Path, line: &str) -> Vec<String> {
    let printed = output(nanochat(base, line));
    let mut lines = printed.lines().skip_while(|line| !line.starts_with("nanochat "));
    let commands: Vec<String> = lines.by_ref().map(String::from).collect();
    assert!(!printed.contains("\n* ") && commands.len() == 2, "{printed}");
    commands
}

#[cfg(unix)]
#[test]
fn what_a_plan_prints_is_taken_by_a_shell_and_trains_as_well_as_the_defaults() {
    let base = prepared();
    let program = assert_cmd::cargo::cargo_bin("nanochat");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let shell = |line: &str| {
        let mut command = assert_cmd::Command::new("sh");
        command.args(["-e", "-c", line]).env("PATH", &path).env("NANOCHAT_BASE_DIR", base.path());
        command.assert().success();
    };
    for line in [
        "plan --depth 20",
        "plan --lang zh --depth 16",
        "plan --lang mix --depth 20 --gpus 1 --memory-gb 24 --recompute mlp",
        "plan --depth 4 --gpu cpu --gpus 2 --max-seq-len 512 --total-batch-size 8192",
    ] {
        planned_commands(base.path(), line).iter().for_each(|command| shell(&format!("{command} --help")));
    }
    // The plan of the guide's tour with fewer steps; with rates by the √ rule its loss was far above that of the
    // defaults.
    let tour = "plan --depth 2 --gpu cpu --gpus 1 --vocab-size 320 --max-seq-len 128 --total-batch-size 1024";
    let few = "--num-iterations 40 --eval-tokens 1024 --sample-every 0 --sample-prompt x --precision f32";
    shell(&format!("{} {few} --model-tag planned", planned_commands(base.path(), tour)[1]));
    let sizes = "--depth 2 --max-seq-len 128 --device-batch-size 8 --total-batch-size 1024";
    run(base.path(), &format!("train base {sizes} {few} --model-tag plain"));
    let bpb = |tag: &str| {
        let lines = metrics(&base.path().join("base_checkpoints").join(tag));
        lines.iter().rev().find_map(|line| line["val_bpb"].as_f64()).unwrap()
    };
    assert!(bpb("planned") < 1.05 * bpb("plain"), "{} and {}", bpb("planned"), bpb("plain"));
}
