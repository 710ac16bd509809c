//! Tests evaluations: what they measure, the names of their scores, and their JSON.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::*;

/// Writes a C-Eval of one subject, with a solved question and one to answer.
fn exam_of_one_question(base: &Path) {
    let head = "id,question,A,B,C,D,answer\n";
    for (file, line) in
        [("dev/law_dev.csv", "0,一,甲,乙,丙,丁,B\n"), ("val/law_val.csv", "0,二,甲,乙,丙,丁,A\n")]
    {
        let path = base.join("task_data/ceval").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{head}{line}")).unwrap();
    }
}

#[test]
fn evaluations_say_which_checkpoint_they_measure_and_take_the_one_of_their_help() {
    let (base, _) = with_chat_model();
    exam_of_one_question(base.path());
    bundle_of_one_task(base.path());
    let path = |run: &str| checkpoints(&base.path().join(run)).pop().unwrap();
    let (trained, tuned) = (path("base_checkpoints/m"), path("chatsft_checkpoints/m"));
    let measuring = |what: &str, folder: &Path| format!("measuring {what}: {}\n", folder.display());
    let of_base = measuring("the base checkpoint of m, step 9", &trained);
    let of_sft = measuring("the sft checkpoint of m, step 4", &tuned);
    let exported = base.path().join("out");
    run(base.path(), &format!("export {} --source sft", exported.display()));
    for (line, usual) in
        [("eval bpb --eval-tokens 256", &of_sft), ("eval exam", &of_sft), ("eval core", &of_base)]
    {
        let told = |flags: &str| said(nanochat(base.path(), &format!("{line} {flags}")));
        assert_eq!(&told(""), usual, "{line}");
        assert_eq!(told("--source base"), of_base, "{line}");
        assert_eq!(told("--source sft"), of_sft, "{line}");
        let early = measuring(
            "the base checkpoint of m, step 3, before the end of its run",
            &trained.with_file_name("step_000003"),
        );
        assert_eq!(told("--source base --step 3 --model-tag m"), early, "{line}");
        assert_eq!(
            told(&format!("-m {}", exported.display())),
            format!("measuring {}\n", exported.display())
        );
        let json: Value =
            serde_json::from_str(&output(nanochat(base.path(), &format!("{line} --json")))).unwrap();
        assert!(usual.ends_with(&format!(": {}\n", json["model"].as_str().unwrap())), "{json}");
        let help = output(nanochat(base.path(), &format!("{line} --help")));
        let default = match usual == &of_base {
            true => "Training stage of the model [default: base]",
            false => {
                "Training stage of the model [default: the last that has finished: rl, else sft, mid, base]"
            }
        };
        let words = help.split_whitespace().collect::<Vec<_>>().join(" "); // independent of line breaks
        assert!(words.contains(default), "{help}");
    }
}

#[test]
fn exams_and_the_chinese_test_are_put_to_a_base_model_and_reported() {
    let base = with_model();
    exam_of_one_question(base.path());
    assert!(output(nanochat(base.path(), "eval exam")).contains("of 1\n"));
    refuses(base.path(), "eval exam --task cmmlu", &["CMMLU", "task_data"]);
    refuses(base.path(), "eval exam --task none", &["no exam none", "C-Eval"]);
    let small = output(nanochat(base.path(), "eval core --bundle zh"));
    assert!(small.contains("poems") && small.contains("mean of 4 tasks, not CORE"), "{small}");
    let report = output(nanochat(base.path(), "report --lang zh"));
    for part in ["C-Eval（五个示例）", "古诗接句", "英译汉", "预训练后的考试"] {
        assert!(report.contains(part), "no {part} in {report}");
    }
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

/// Writes a bundle of one task with nine items of two examples; returns its list.
fn bundle_of_one_task(base: &Path) -> String {
    let folder = base.join("eval_bundle");
    fs::create_dir_all(folder.join("eval_data")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let list = "icl_tasks:\n- label: go\n  dataset_uri: go.jsonl\n  num_fewshot: [2]\n  \
                icl_task_type: language_modeling\n";
    write("core.yaml", list);
    write("eval_meta_data.csv", "Eval Task,Random baseline\ngo,0\n");
    let items: Vec<String> =
        (0..9).map(|i| format!("{{\"context\": \"c{i}\", \"continuation\": \"d\"}}")).collect();
    write("eval_data/go.jsonl", &items.join("\n"));
    list.into()
}

#[test]
fn some_tasks_are_measured_while_pretraining_and_not_called_core() {
    let base = prepared();
    let train = format!("{TINY} --num-iterations 4 --core-metric-every 2 --overwrite");
    assert!(said(nanochat(base.path(), &train)).contains("CORE is not computed: there is no"));
    let list = bundle_of_one_task(base.path());
    let said = said(nanochat(base.path(), &train));
    assert!(said.contains("step 4: mean of 1 task, not CORE 0.0000\n"), "{said}");
    let measured = |name: &str| {
        let lines = metrics(&base.path().join("base_checkpoints/d1"));
        lines
            .iter()
            .filter(|line| line.get(name).is_some())
            .map(|line| line["step"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((measured("core_mean"), measured("CORE")), (vec![2.into(), 4.into()], vec![]));
    assert!(base.path().join("report/d1/base-training-core-mean.svg").exists());
    assert!(!base.path().join("report/d1/base-training-core.svg").exists());
    run(base.path(), &format!("{train} --no-core"));
    assert!(measured("core_mean").is_empty());
    refuses(base.path(), &format!("{train} --core-metric-max-per-task 2"), &["go", "it needs 3 items"]);
    fs::write(base.path().join("eval_bundle/core.yaml"), list.replace("[2]", "[x]")).unwrap();
    refuses(base.path(), &train, &["num_fewshot x is not a number"]);
}

#[test]
fn core_is_all_of_its_tasks_and_says_what_was_cropped() {
    let base = with_model();
    bundle_of_one_task(base.path());
    let folder = base.path().join("eval_bundle");
    let one = output(nanochat(base.path(), "eval core"));
    assert!(one.contains("\nmean of 1 task, not CORE 0.0000\n") && !one.contains("cropped"), "{one}");
    // All 22 tasks with one item each; the first item is longer than the model's 640 positions.
    let (mut list, mut guessing) =
        (String::from("icl_tasks:\n"), String::from("Eval Task,Random baseline\n"));
    for (i, label) in nanochat::measure::core_eval::CORE_TASKS.iter().enumerate() {
        list += &format!(
            "- label: {label}\n  dataset_uri: {label}.jsonl\n  num_fewshot: [0]\n  \
             icl_task_type: language_modeling\n"
        );
        guessing += &format!("{label},0\n");
        let context = "x9?".repeat(if i == 0 { 400 } else { 1 });
        let item = format!("{{\"context\": \"{context}\", \"continuation\": \"d\"}}\n");
        fs::write(folder.join(format!("eval_data/{label}.jsonl")), item).unwrap();
    }
    fs::write(folder.join("core.yaml"), list).unwrap();
    fs::write(folder.join("eval_meta_data.csv"), guessing).unwrap();
    let whole = output(nanochat(base.path(), "eval core"));
    assert!(whole.contains("\nCORE 0.0000\n"), "{whole}");
    assert!(whole.contains("\ncropped to the model's 640 positions: 1 of 22 items\n"), "{whole}");
    let json = |line: &str| serde_json::from_str::<Value>(&output(nanochat(base.path(), line))).unwrap();
    let all = json("eval core --json");
    assert!(all["core"] == 0.0 && all["mean"] == 0.0 && all["cropped"] == 1, "{all}");
    assert!(all["tasks"][0]["cropped"] == 1 && all["tasks"][1]["cropped"] == 0, "{all}");
    let report = output(nanochat(base.path(), "report"));
    assert!(
        report.contains("| CORE | 0 |") && report.contains("| few-shot items cropped | 1 of 22 items |"),
        "{report}"
    );
    let some = json("eval core --json --task squad --task coqa");
    assert!(some.get("core").is_none() && some["mean"] == 0.0, "{some}");
    assert!(output(nanochat(base.path(), "eval core --task squad")).contains("mean of 1 task, not CORE"));
    fs::remove_file(folder.join("eval_data/coqa.jsonl")).unwrap();
    assert!(output(nanochat(base.path(), "eval core")).contains("\nmean of 21 tasks, not CORE 0.0000\n"));
    let report = output(nanochat(base.path(), "report --lang zh"));
    assert!(
        report.contains("| 21 个任务的平均，不是 CORE | 0 |") && !report.contains("| CORE |"),
        "{report}"
    );
}
