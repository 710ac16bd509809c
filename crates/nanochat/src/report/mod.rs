//! The report of a whole run, as markdown and as a single HTML file, in English or Chinese. Each stage writes a section
//! as a JSON file to the run's folder; `generate` combines them into `report.md` and `report.html`. A stage that is run
//! again replaces its section.

pub mod curve;
mod document;
mod html;
mod markdown;
pub mod metrics;
pub mod profile;
mod runs;
mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::atomic_file;
use crate::model::checkpoint::Stage;
use crate::terminal::environment::environment;

pub use runs::{begin, has_earlier, log_section, log_tokenizer, report_folder, reset, run_folder};
pub use words::Lang;

pub const REPORT_FILE: &str = "report.md";
pub const HTML_FILE: &str = "report.html";
const HEADER_FILE: &str = "header.json";

/// A column of the table of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Column {
    Base,
    Mid,
    Sft,
    Rl,
}

impl Column {
    const ALL: [(Column, &str); 4] =
        [(Column::Base, "BASE"), (Column::Mid, "MID"), (Column::Sft, "SFT"), (Column::Rl, "RL")];
}

impl From<Stage> for Column {
    fn from(stage: Stage) -> Column {
        match stage {
            Stage::Base => Column::Base,
            Stage::Mid => Column::Mid,
            Stage::Sft => Column::Sft,
            Stage::Rl => Column::Rl,
        }
    }
}

/// The section of one stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Section {
    /// The title of the section, which also names its file.
    pub title: String,
    /// The start time, in seconds since 1970.
    pub started: f64,
    /// The time of writing; 0 before that.
    pub logged: f64,
    pub seconds: f64,
    pub settings: Map<String, Value>,
    pub results: Map<String, Value>,
    /// The column of `metrics` in the table of all stages, if any.
    pub column: Option<Column>,
    /// Scores such as `CORE`, `val bpb`, `ARC-Easy`, `ChatCORE`.
    pub metrics: Map<String, Value>,
    /// Further text in markdown, such as samples.
    pub text: Option<String>,
    pub charts: Vec<Chart>,
}

/// An SVG file beside the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    pub title: String,
    pub file: String,
}

/// The facts known before the first stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    dollars_per_hour: Option<f64>,
    environment: Map<String, Value>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("failed to use {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is damaged ({error}); run its stage again or delete it", path.display())]
    Damaged { path: PathBuf, error: serde_json::Error },
    #[error("there is nothing to report in {} yet; run a stage first", folder.display())]
    Nothing { folder: PathBuf },
    #[error("there is no run {tag} in {}; {}", folder.display(), there_are(tags))]
    NoRun { tag: String, folder: PathBuf, tags: String },
}

fn there_are(tags: &str) -> String {
    if tags.is_empty() { "no run has reported yet".into() } else { format!("there are {tags}") }
}

/// A report that was written.
#[derive(Debug)]
pub struct WrittenReport {
    pub folder: PathBuf,
    /// The whole report in markdown.
    pub text: String,
}

impl Section {
    /// Makes a section that starts now.
    pub fn new(title: &str) -> Section {
        Section { title: title.to_string(), started: now(), ..Section::default() }
    }
}

/// Returns the fields of a settings or results struct by name.
pub fn fields(of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(fields)) => fields,
        other => panic!("only a struct has fields, found {other:?}"),
    }
}

/// Returns a title as part of a file name: a space would end a markdown link.
pub fn file_name(title: &str) -> String {
    title.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Writes `report.md` and `report.html` of a run, without a tag of the one that logged last.
pub fn generate(base_dir: &Path, model_tag: Option<&str>, lang: Lang) -> Result<WrittenReport, ReportError> {
    let run = runs::find(base_dir, model_tag)?;
    let header_path = run.folder.join(HEADER_FILE);
    let header = match header_path.exists() {
        true => read_json(&header_path)?,
        false => Header { dollars_per_hour: None, environment: environment() },
    };
    let blocks = document::document(&header, run.tag.as_deref(), &run.sections, lang);
    let (folder, text) = (run.folder, markdown::markdown(&blocks));
    for (file, text) in [(REPORT_FILE, &text), (HTML_FILE, &html::html(&blocks, &folder, lang))] {
        let path = folder.join(file);
        atomic_file::write(&path, text.as_bytes()).map_err(io_error(&path))?;
    }
    Ok(WrittenReport { folder, text })
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ReportError> {
    let json = serde_json::to_vec_pretty(value).expect("maps with string keys always serialize");
    atomic_file::write(path, &json).map_err(io_error(path))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ReportError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    serde_json::from_slice(&bytes).map_err(|error| ReportError::Damaged { path: path.to_path_buf(), error })
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> ReportError {
    move |error| ReportError::Io { path: path.to_path_buf(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn section(title: &str, started: f64, column: Option<Column>, metrics: Value) -> Section {
        let Value::Object(metrics) = metrics else { panic!("an object") };
        Section { title: title.to_string(), started, seconds: 100.0, column, metrics, ..Section::default() }
    }

    #[test]
    fn a_run_becomes_one_report() {
        let dir = tempfile::tempdir().unwrap();
        reset(dir.path(), Some(24.0)).unwrap();
        begin(dir.path(), "d20", Stage::Base).unwrap();
        let start = now();
        let sft = json!({"ChatCORE": 0.0884, "ARC-Easy": 0.3876, "GSM8K": 0.0455});
        let base = json!({"val bpb": 0.81, "CORE": 0.2219, "never": null});
        log_section(dir.path(), "d20", &section("chat evaluation", start + 200.0, Some(Column::Sft), sft))
            .unwrap();
        let mut first = section("base training", start + 10.0, Some(Column::Base), base);
        first.settings = fields(&json!({"depth": 20, "matrix_lr": 0.02, "run": "a|b\nc"}));
        first.results = fields(&json!({"total FLOPs": 3.918e19, "loss": 2.5, "absent": null}));
        first.charts = vec![Chart { title: "loss".to_string(), file: "base-loss.svg".to_string() }];
        first.text = Some("> The capital of France is Paris.".to_string());
        log_section(dir.path(), "d20", &first).unwrap();

        let WrittenReport { folder, text } = generate(dir.path(), None, Lang::En).unwrap();
        assert_eq!(fs::read_to_string(folder.join(REPORT_FILE)).unwrap(), text);
        let table = "| Metric | BASE | SFT |\n|---|---:|---:|\n| CORE | 0.2219 |  |\n| val bpb | 0.81 |  |\n\
                     | ARC-Easy |  | 0.3876 |\n| GSM8K |  | 0.0455 |\n| ChatCORE |  | 0.0884 |\n";
        assert!(text.contains(table), "{text}");
        for part in [
            "| depth | 20 |",
            "| matrix_lr | 0.02 |",
            "| run | a\\|b c |",
            "| total FLOPs | 3.918e19 |",
            "![loss](base-loss.svg)",
            "> The capital of France is Paris.",
            "Took 1 min 40 s.",
            "Time: 3 min 20 s, that of all stages and evaluations together.",
            "Cost: $1.33, at $24.00 an hour.",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("absent") && !text.contains("never"));
        assert!(text.find("## base training") < text.find("## chat evaluation"));

        let WrittenReport { folder, text: chinese } = generate(dir.path(), None, Lang::Zh).unwrap();
        assert!(chinese.starts_with("# nanochat 报告：d20\n\n## 环境\n"), "{chinese}");
        assert!(
            chinese.contains("| 指标 | BASE | SFT |") && chinese.contains("费用：1.33 美元"),
            "{chinese}"
        );
        let html = fs::read_to_string(folder.join(HTML_FILE)).unwrap();
        assert!(html.contains("<td>CORE</td><td>0.2219</td><td></td>") && html.contains("a|b\nc"), "{html}");
    }

    #[test]
    fn a_stage_run_again_replaces_its_section() {
        let dir = tempfile::tempdir().unwrap();
        log_section(dir.path(), "d20", &section("sft", 5.0, Some(Column::Sft), json!({"MMLU": 0.1})))
            .unwrap();
        log_section(dir.path(), "d20", &section("sft", 9.0, Some(Column::Sft), json!({"MMLU": 0.3})))
            .unwrap();
        let text = generate(dir.path(), None, Lang::En).unwrap().text;
        assert!(text.contains("| MMLU | 0.3 |") && !text.contains("0.1 |"), "{text}");
    }

    #[test]
    fn nothing_and_damage_are_said_clearly() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(generate(dir.path(), None, Lang::En), Err(ReportError::Nothing { .. })));
        reset(dir.path(), None).unwrap();
        assert!(matches!(generate(dir.path(), None, Lang::En), Err(ReportError::Nothing { .. })));
        fs::write(report_folder(dir.path()).join("section-base.json"), "{\"title\":").unwrap();
        let error = generate(dir.path(), None, Lang::En).unwrap_err().to_string();
        assert!(error.contains("section-base.json is damaged"), "{error}");
        reset(dir.path(), None).unwrap();
        assert!(matches!(generate(dir.path(), None, Lang::En), Err(ReportError::Nothing { .. })));
    }
}
