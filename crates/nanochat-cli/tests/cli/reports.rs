//! Tests the report of each run.

use std::fs;
use std::path::Path;

use crate::common::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_report_is_of_one_run_and_by_default_of_the_last() {
    let base = with_model();
    run(base.path(), &format!("{TINY} --model-tag other --num-iterations 5"));
    let report = |flags: &str| output(nanochat(base.path(), &format!("report {flags}")));
    let (last, first) = (report(""), report("--model-tag m"));
    for (report, tag, steps) in [(&last, "other", 5), (&first, "m", 9)] {
        assert!(report.starts_with(&format!("# nanochat report: {tag}\n")), "{report}");
        assert!(report.contains(&format!("| num_iterations | {steps} |")), "{report}");
        assert!(report.contains("## Tokenizer") && report.matches("## Base training").count() == 1);
    }
    for tag in ["m", "other"] {
        for file in ["report.md", "report.html", "base-training-loss.svg"] {
            assert!(base.path().join("report").join(tag).join(file).exists(), "{tag}/{file}");
        }
    }
    // An evaluation is reported in the run of its checkpoint.
    run(base.path(), "eval core --bundle zh --model-tag m");
    assert!(report("").contains("## Chinese after base") && !report("--model-tag other").contains("Chinese"));
    refuses(base.path(), "report --model-tag deep", &["no run deep", "there are m, other"]);
    refuses(base.path(), "report --model-tag m reset", &["--model-tag"]);
}

#[test]
fn a_run_begun_anew_has_nothing_of_the_old_ones_report_and_a_resumed_one_all() {
    let (base, _) = with_chat_model();
    let folder = base.path().join("report/m");
    let report = || output(nanochat(base.path(), "report"));
    let whole = report();
    assert!(whole.contains("## Base training") && whole.contains("## Chat finetuning"), "{whole}");
    run(base.path(), &format!("{TINY} --model-tag m --num-iterations 9 --save-every 3 --keep 0 --resume"));
    assert!(report().contains("## Chat finetuning") && !folder.join("replaced-1").exists());

    run(base.path(), &format!("{TINY_SFT} --num-iterations 2 --overwrite"));
    assert!(report().contains("| num_iterations | 9 |") && report().contains("| num_iterations | 2 |"));
    assert!(names(&folder.join("replaced-1")).contains(&"section-chat-finetuning.json".into()));

    run(base.path(), &format!("{TINY} --model-tag m --num-iterations 5 --overwrite"));
    let anew = report();
    assert!(anew.contains("| num_iterations | 5 |") && !anew.contains("## Chat finetuning"), "{anew}");
    let aside = names(&folder.join("replaced-2"));
    for file in
        ["section-base-training.json", "section-chat-finetuning.json", "base-training-loss.svg", "report.md"]
    {
        assert!(aside.contains(&file.into()), "{file} is not in {aside:?}");
    }
}

#[test]
fn what_is_measured_of_a_folder_goes_into_no_report() {
    let base = with_model();
    let step = base.path().join("base_checkpoints/m/step_000003");
    let before = names(&base.path().join("report/m"));
    run(base.path(), &format!("eval core --bundle zh -m {}", step.display()));
    run(base.path(), &format!("eval chat --limit 1 --max-tokens 4 -m {}", step.display()));
    assert_eq!(names(&base.path().join("report/m")), before);
    assert_eq!(names(&base.path().join("report")), ["m", "section-tokenizer.json"]);
}

#[test]
fn a_report_of_an_earlier_version_is_read() {
    let base = with_model();
    let (all, of_run) = (base.path().join("report"), base.path().join("report/m"));
    for file in names(&of_run) {
        fs::rename(of_run.join(&file), all.join(&file)).unwrap();
    }
    fs::remove_dir(of_run).unwrap();
    let report = output(nanochat(base.path(), "report"));
    assert!(report.starts_with("# nanochat report\n") && report.contains("## Base training"), "{report}");
    assert!(all.join("report.html").exists());
    // Another run has its own report, and sections left out of it are mentioned.
    run(base.path(), &format!("{TINY} --model-tag other --num-iterations 5"));
    let command = nanochat(base.path(), "report").output().unwrap();
    let [printed, told] = [command.stdout, command.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(
        printed.starts_with("# nanochat report: other\n") && !printed.contains("| model_tag | m |"),
        "{printed}"
    );
    assert!(told.contains("an earlier version's") && told.contains("left out"), "{told}");
}

#[test]
fn the_time_of_a_report_is_that_of_its_stages() {
    let base = with_model();
    run(base.path(), &format!("{TINY_SFT} --num-iterations 4"));
    let mut seconds = 0.0;
    for name in names(&base.path().join("report/m")).iter().filter(|name| name.starts_with("section-")) {
        let path = base.path().join("report/m").join(name);
        let mut section: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        // A day passes between the stages.
        section["started"] = (86_400.0 * f64::from(u8::from(name.contains("chat")))).into();
        section["seconds"] = 100.0.into();
        seconds += 100.0;
        fs::write(path, section.to_string()).unwrap();
    }
    assert_eq!(seconds, 300.0, "the tokenizer, base and sft");
    let report = output(nanochat(base.path(), "report"));
    assert!(report.contains("Time: 5 min 00 s, that of all stages and evaluations together."), "{report}");
}
