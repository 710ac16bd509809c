//! Tests which sections belong to a run's report.

use serde_json::json;

use super::*;
use crate::report::{Chart, Lang, fields, generate};

fn section(title: &str, column: Option<Column>, value: f64) -> Section {
    let metrics = fields(&json!({ title: value }));
    Section { title: title.into(), seconds: 60.0, column, metrics, ..Section::default() }
}

fn report(base: &Path, tag: Option<&str>) -> String {
    generate(base, tag, Lang::En).unwrap().text
}

#[test]
fn a_second_tag_never_mixes_in() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    for (tag, vocabulary) in [("d4", 320), ("wide", 640)] {
        let mut tokenizer = section("Tokenizer", None, 0.0);
        tokenizer.settings.insert("vocabulary".into(), vocabulary.into());
        log_tokenizer(base, Some(tokenizer)).unwrap();
        begin(base, tag, Stage::Base).unwrap();
        log_section(base, tag, &section("Base training", Some(Column::Base), f64::from(vocabulary))).unwrap();
    }
    log_section(base, "d4", &section("Chat finetuning", Some(Column::Sft), 1.0)).unwrap();
    let (four, wide) = (report(base, Some("d4")), report(base, Some("wide")));
    assert!(four.starts_with("# nanochat report: d4\n") && four.contains("| vocabulary | 320 |"), "{four}");
    assert!(four.contains("## Chat finetuning") && !four.contains("640"), "{four}");
    assert!(wide.contains("| vocabulary | 640 |") && !wide.contains("320"), "{wide}");
    assert!(!wide.contains("## Chat finetuning"), "{wide}");
    // The run that logged last is found, regardless of which started last.
    assert_eq!(report(base, None), four);
    let error = generate(base, Some("deep"), Lang::En).unwrap_err().to_string();
    assert!(error.contains("no run deep") && error.contains("d4, wide"), "{error}");
}

#[test]
fn a_stage_begun_anew_moves_its_sections_and_later_ones_aside() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    let folder = run_folder(base, "d4");
    begin(base, "d4", Stage::Base).unwrap();
    for (title, column) in [
        ("Base training", Column::Base),
        ("Few-shot tasks after base", Column::Base),
        ("Mid-training", Column::Mid),
        ("Chat finetuning", Column::Sft),
    ] {
        let mut section = section(title, Some(column), 0.5);
        let file = format!("{}.svg", file_name(title));
        fs::write(folder.join(&file), "<svg>").unwrap();
        section.charts = vec![Chart { title: "loss".into(), file }];
        log_section(base, "d4", &section).unwrap();
    }
    let whole = report(base, None);
    begin(base, "d4", Stage::Mid).unwrap();
    let rest = report(base, None);
    assert!(rest.contains("## Base training") && rest.contains("## Few-shot tasks after base"), "{rest}");
    assert!(!rest.contains("## Mid-training") && !rest.contains("## Chat finetuning"), "{rest}");
    assert!(folder.join("base-training.svg").exists() && !folder.join("mid-training.svg").exists());
    let aside = folder.join("replaced-1");
    assert_eq!(fs::read_to_string(aside.join(REPORT_FILE)).unwrap(), whole);
    for file in ["section-mid-training.json", "section-chat-finetuning.json", "mid-training.svg"] {
        assert!(aside.join(file).exists(), "{file}");
    }
    // A damaged section means that its stage must be run again.
    fs::write(folder.join("section-base-training.json"), "{").unwrap();
    begin(base, "d4", Stage::Base).unwrap();
    assert!(matches!(generate(base, None, Lang::En), Err(ReportError::Nothing { .. })));
    assert!(folder.join("replaced-2/section-few-shot-tasks-after-base.json").exists());
    assert!(folder.join("replaced-2/section-base-training.json").exists() && aside.exists());
}

#[test]
fn an_earlier_versions_report_is_read_until_a_run_has_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    log(&report_folder(base), &section("Base training", Some(Column::Base), 0.25)).unwrap();
    let old = report(base, None);
    assert!(old.starts_with("# nanochat report\n") && old.contains("| Base training | 0.25 |"), "{old}");
    begin(base, "d4", Stage::Base).unwrap();
    log_section(base, "d4", &section("Base training", Some(Column::Base), 0.75)).unwrap();
    let new = report(base, None);
    assert!(new.contains("| Base training | 0.75 |") && !new.contains("0.25"), "{new}");
}

#[test]
fn a_tokenizer_that_was_replaced_by_an_unknown_one_is_in_no_later_report() {
    let dir = tempfile::tempdir().unwrap();
    log_tokenizer(dir.path(), Some(section("Tokenizer", None, 0.0))).unwrap();
    log_tokenizer(dir.path(), None).unwrap();
    log_tokenizer(dir.path(), None).unwrap();
    begin(dir.path(), "d4", Stage::Base).unwrap();
    assert!(matches!(generate(dir.path(), None, Lang::En), Err(ReportError::Nothing { .. })));
}
