//! The main road: a speedrun, what it leaves, and the commands that use it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::*;

const SMOKE: &str = "speedrun --preset smoke";

/// Files of a checkpoint: what transformers loads, and what training needs besides.
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

/// Every picture of the report is a file beside it, under a name that a markdown link can hold.
fn assert_report(base: &Path) {
    let report = fs::read_to_string(base.join("report/report.md")).unwrap();
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
        assert!(fs::read_to_string(base.join("report").join(picture)).unwrap().starts_with("<svg"));
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
    let report = fs::read_to_string(base.path().join("report/report.md")).unwrap();
    assert!(report.starts_with("# nanochat 报告"), "{report}");
    refuses(base.path(), &format!("{SMOKE} --lang mix --name 小纳"), &["--lang zh", "--base-dir"]);
    run(base.path(), &format!("{SMOKE} --lang zh --name 小纳 --no-rl --report-lang en"));
    let report = fs::read_to_string(base.path().join("report/report.md")).unwrap();
    assert!(report.starts_with("# nanochat report"), "{report}");
}

#[test]
fn exams_and_the_chinese_test_are_put_to_a_base_model_and_reported() {
    let base = with_model();
    let head = "id,question,A,B,C,D,answer\n";
    for (file, line) in
        [("dev/law_dev.csv", "0,一,甲,乙,丙,丁,B\n"), ("val/law_val.csv", "0,二,甲,乙,丙,丁,A\n")]
    {
        let path = base.path().join("task_data/ceval").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{head}{line}")).unwrap();
    }
    assert!(output(nanochat(base.path(), "eval exam")).contains("of 1\n"));
    refuses(base.path(), "eval exam --task cmmlu", &["CMMLU", "task_data"]);
    refuses(base.path(), "eval exam --task none", &["no exam none", "C-Eval"]);
    let small = output(nanochat(base.path(), "eval core --bundle zh"));
    assert!(small.contains("poems") && small.contains("mean above guessing"), "{small}");
    let report = output(nanochat(base.path(), "report --lang zh"));
    for part in ["C-Eval（五个示例）", "古诗接句", "英译汉", "预训练后的考试"] {
        assert!(report.contains(part), "no {part} in {report}");
    }
}

#[test]
fn a_speedrun_killed_after_the_base_stage_goes_on() {
    let base = tempfile::tempdir().unwrap();
    let mut child = start(base.path(), SMOKE);
    // SFT logs a line: base is done.
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

    // Data of the user's own is not taken for that of a killed speedrun, however often one tries.
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
    // A base model goes on with the text instead.
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
fn programs_can_read_what_is_measured_and_planned() {
    let base = with_model();
    let json = |line: &str| serde_json::from_str::<Value>(&output(nanochat(base.path(), line))).unwrap();
    let bpb = json("eval bpb --eval-tokens 256 --json");
    let value = |name: &str| bpb[name].as_f64().filter(|bpb| (0.5..10.0).contains(bpb));
    assert!(value("train_bpb").is_some() && value("val_bpb").is_some(), "{bpb}");
    assert!(json("plan --depth 4 --json").is_object());
    assert!(json("plan --json").as_array().is_some_and(|plans| plans.len() > 3));
    let scores = json("eval chat --questions 2 --json");
    let tasks = scores["tasks"].as_array().unwrap();
    assert!(tasks.len() > 4 && tasks.iter().all(|task| task["score"]["total"] == 2), "{scores}");
}

#[test]
fn tasks_are_measured_while_finetuning() {
    let (base, questions) = with_chat_model();
    let line = format!(
        "{TINY_SFT} --num-iterations 4 --overwrite --eval-task {} --eval-task-every 2",
        questions.display()
    );
    let said = said(nanochat(base.path(), &line));
    assert_eq!(said.matches("% of 20 right").count(), 3, "{said}");
    let lines = metrics(&base.path().join("chatsft_checkpoints/m"));
    let measured = lines.iter().filter(|line| line.get("accuracy questions").is_some());
    assert_eq!(measured.map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 4]);
    let unknown = format!("{TINY_SFT} --num-iterations 4 --overwrite --eval-task verses");
    refuses(base.path(), &unknown, &["no task verses", "GSM8K"]);
}

#[test]
fn core_is_computed_while_pretraining_if_there_is_a_bundle() {
    let base = prepared();
    let train = format!("{TINY} --num-iterations 4 --core-metric-every 2 --overwrite");
    assert!(said(nanochat(base.path(), &train)).contains("CORE is not computed: there is no"));
    let folder = base.path().join("eval_bundle");
    fs::create_dir_all(folder.join("eval_data")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let task = "icl_tasks:\n- label: go\n  dataset_uri: go.jsonl\n  num_fewshot: [2]\n  \
                icl_task_type: language_modeling\n";
    write("core.yaml", task);
    write("eval_meta_data.csv", "Eval Task,Random baseline\ngo,0\n");
    let items: Vec<String> =
        (0..9).map(|i| format!("{{\"context\": \"c{i}\", \"continuation\": \"d\"}}")).collect();
    write("eval_data/go.jsonl", &items.join("\n"));
    run(base.path(), &train);
    let lines = metrics(&base.path().join("base_checkpoints/d1"));
    let measured = lines.iter().filter(|line| line.get("CORE").is_some());
    assert_eq!(measured.map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4]);
    assert!(base.path().join("report/base-training-core.svg").exists());
    run(base.path(), &format!("{train} --no-core"));
    assert!(metrics(&base.path().join("base_checkpoints/d1")).iter().all(|line| line.get("CORE").is_none()));
    refuses(base.path(), &format!("{train} --core-metric-max-per-task 2"), &["go", "it needs 3 items"]);
    write("core.yaml", &task.replace("[2]", "[x]"));
    refuses(base.path(), &train, &["num_fewshot x is not a number"]);
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

/// Here on machines without a GPU; what a GPU does is tested beside the kernels.
#[test]
fn a_gpu_that_is_not_there_is_said_in_a_sentence() {
    let base = prepared();
    let doctor = nanochat(base.path(), "--device cuda doctor").output().unwrap();
    if doctor.status.success() {
        println!("skipped: there is a GPU");
        return;
    }
    assert!(String::from_utf8(doctor.stdout).unwrap().contains("driver"));
    let train = format!("--device cuda {TINY} --num-iterations 1");
    for line in [&train, "--device cuda bench train", "--device cuda speedrun"] {
        refuses(base.path(), line, &["`nanochat doctor`"]);
    }
    assert!(!base.path().join("speedrun.json").exists(), "nothing was begun");
}

/// The lines that a plan prints for a shell, at its end.
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
    // The plan of the guide's tour, of fewer steps: by the √ rule it ended far above what the defaults reach.
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
