//! One markdown report of a whole run. Each stage leaves a section as a JSON file under
//! `{base_dir}/report/`; `generate` puts them together as `report.md`. A stage that is run again replaces
//! its section.

mod environment;

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::atomic_file;
use crate::checkpoint::Stage;

pub use environment::{environment, memory_bytes};

pub const REPORT_FILE: &str = "report.md";
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

/// What one stage has to report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Section {
    /// Names the section and its file.
    pub title: String,
    /// Seconds since 1970.
    pub started: f64,
    pub seconds: f64,
    pub settings: Map<String, Value>,
    pub results: Map<String, Value>,
    /// Where `metrics` belong in the table of all stages, if anywhere.
    pub column: Option<Column>,
    /// Scores such as `CORE`, `val bpb`, `ARC-Easy`, `ChatCORE`.
    pub metrics: Map<String, Value>,
    /// Markdown, such as samples.
    pub text: Option<String>,
    pub charts: Vec<Chart>,
}

/// An SVG file beside the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    pub title: String,
    pub file: String,
}

/// What is known before the first stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    started: f64,
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
}

impl Section {
    /// A section that starts now.
    pub fn new(title: &str) -> Section {
        Section { title: title.to_string(), started: now(), ..Section::default() }
    }
}

/// The fields of a settings or results struct, by name.
pub fn fields(of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(fields)) => fields,
        other => panic!("only a struct has fields, found {other:?}"),
    }
}

/// Where the report, its sections and its charts lie.
pub fn report_folder(base_dir: &Path) -> PathBuf {
    base_dir.join("report")
}

/// Starts a new report: older sections go, the clock starts, the environment is noted.
pub fn reset(base_dir: &Path, dollars_per_hour: Option<f64>) -> Result<(), ReportError> {
    let folder = report_folder(base_dir);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&folder)(error)),
        _ => {}
    }
    let header = Header { started: now(), dollars_per_hour, environment: environment() };
    write_json(&folder.join(HEADER_FILE), &header)
}

/// Writes (or replaces) the section of one stage.
pub fn log_section(base_dir: &Path, section: &Section) -> Result<(), ReportError> {
    let name = file_name(&section.title);
    write_json(&report_folder(base_dir).join(format!("section-{name}.json")), section)
}

/// A title as part of a file's name: a space would end a markdown link.
pub fn file_name(title: &str) -> String {
    title.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Writes `report.md` from all sections; gives its path and text.
pub fn generate(base_dir: &Path) -> Result<(PathBuf, String), ReportError> {
    let folder = report_folder(base_dir);
    let sections = read_sections(&folder)?;
    let Some(first) = sections.first() else { return Err(ReportError::Nothing { folder }) };
    let header_path = folder.join(HEADER_FILE);
    let header = match header_path.exists() {
        true => read_json(&header_path)?,
        false => Header { started: first.started, dollars_per_hour: None, environment: environment() },
    };
    let text = markdown(&header, &sections);
    let path = folder.join(REPORT_FILE);
    atomic_file::write(&path, text.as_bytes()).map_err(io_error(&path))?;
    Ok((path, text))
}

/// All sections, in the order in which their stages started.
fn read_sections(folder: &Path) -> Result<Vec<Section>, ReportError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(folder))?,
    };
    let mut sections: Vec<Section> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("section-") && name.ends_with(".json") {
            sections.push(read_json(&entry.path())?);
        }
    }
    sections.sort_by(|a, b| a.started.total_cmp(&b.started).then_with(|| a.title.cmp(&b.title)));
    Ok(sections)
}

fn markdown(header: &Header, sections: &[Section]) -> String {
    let mut text = "# nanochat report\n\n## Environment\n\n".to_string();
    text += &two_columns(["", ""], &header.environment);
    text += &summary(header, sections);
    for section in sections {
        let _ = write!(text, "\n## {}\n\nTook {}.\n", section.title, duration(section.seconds));
        for (name, fields) in [("Setting", &section.settings), ("Result", &section.results)] {
            if !fields.is_empty() {
                text += "\n";
                text += &two_columns([name, "Value"], fields);
            }
        }
        for chart in &section.charts {
            let _ = write!(text, "\n![{}]({})\n", chart.title, chart.file);
        }
        if let Some(more) = &section.text {
            let _ = write!(text, "\n{}\n", more.trim_end());
        }
    }
    text
}

/// All metrics by stage, the run's time, and its cost if a price is known.
fn summary(header: &Header, sections: &[Section]) -> String {
    let mut text = "\n## Summary\n\n".to_string();
    let table = metrics_table(sections);
    if !table.is_empty() {
        text += &table;
        text += "\n";
    }
    // As published times do, the clock stops before reinforcement learning.
    let counted = || sections.iter().filter(|section| section.column != Some(Column::Rl));
    let end = counted().map(|section| section.started + section.seconds).fold(header.started, f64::max);
    let wall = end - header.started;
    let stages: f64 = counted().map(|section| section.seconds).sum();
    let _ = writeln!(text, "Wall-clock time: {}, of which in stages: {}.", duration(wall), duration(stages));
    if let Some(price) = header.dollars_per_hour {
        let cost = wall / 3600.0 * price;
        let _ = writeln!(text, "Cost: ${cost:.2}, at ${price:.2} an hour.");
    }
    text
}

/// One row a metric: CORE first, ChatCORE last, the others as they came; no empty rows or columns.
fn metrics_table(sections: &[Section]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in sections.iter().filter(|s| s.column.is_some()).flat_map(|section| section.metrics.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| match *name {
        "CORE" => 0,
        "ChatCORE" => 2,
        _ => 1,
    });
    let find = |column, name: &str| {
        let of_column = sections.iter().rev().filter(|section| section.column == Some(column));
        of_column.filter_map(|section| section.metrics.get(name)).find(|value| !value.is_null())
    };
    let measured = |(column, _): &(Column, &str)| names.iter().any(|name| find(*column, name).is_some());
    let columns: Vec<_> = Column::ALL.into_iter().filter(measured).collect();
    if columns.is_empty() {
        return String::new();
    }
    let heads: Vec<&str> = columns.iter().map(|(_, head)| *head).collect();
    let mut text = format!("| Metric | {} |\n|---|{}\n", heads.join(" | "), "---:|".repeat(columns.len()));
    for name in names {
        let cells: Vec<String> =
            columns.iter().map(|(column, _)| find(*column, name).map_or(String::new(), cell)).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {} | {} |", escaped(name), cells.join(" | "));
        }
    }
    text
}

fn two_columns(heads: [&str; 2], fields: &Map<String, Value>) -> String {
    let mut text = format!("| {} | {} |\n|---|---|\n", heads[0], heads[1]);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let _ = writeln!(text, "| {} | {} |", escaped(name), cell(value));
    }
    text
}

/// A value as it stands in a table.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        Value::Number(number) => match number.as_f64().unwrap_or(f64::NAN) {
            x if x == 0.0 || (1e-3..1e6).contains(&x.abs()) => {
                format!("{x:.4}").trim_end_matches('0').trim_end_matches('.').to_string()
            }
            x => format!("{x:.3e}"),
        },
        other => escaped(&other.to_string()),
    }
}

/// Text that cannot end its cell of a markdown table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
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
        let start = now();
        let sft = json!({"ChatCORE": 0.0884, "ARC-Easy": 0.3876, "GSM8K": 0.0455});
        let base = json!({"val bpb": 0.81, "CORE": 0.2219, "never": null});
        log_section(dir.path(), &section("chat evaluation", start + 200.0, Some(Column::Sft), sft)).unwrap();
        let mut first = section("base training", start + 10.0, Some(Column::Base), base);
        first.settings = fields(&json!({"depth": 20, "matrix_lr": 0.02, "run": "a|b\nc"}));
        first.results = fields(&json!({"total FLOPs": 3.918e19, "loss": 2.5, "absent": null}));
        first.charts = vec![Chart { title: "loss".to_string(), file: "base-loss.svg".to_string() }];
        first.text = Some("> The capital of France is Paris.".to_string());
        log_section(dir.path(), &first).unwrap();

        let (path, text) = generate(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), text);
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
            "Wall-clock time: 5 min 00 s, of which in stages: 3 min 20 s.",
            "Cost: $2.00, at $24.00 an hour.",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("absent") && !text.contains("never"));
        assert!(text.find("## base training") < text.find("## chat evaluation"));
    }

    #[test]
    fn a_stage_run_again_replaces_its_section() {
        let dir = tempfile::tempdir().unwrap();
        log_section(dir.path(), &section("sft", 5.0, Some(Column::Sft), json!({"MMLU": 0.1}))).unwrap();
        log_section(dir.path(), &section("sft", 9.0, Some(Column::Sft), json!({"MMLU": 0.3}))).unwrap();
        let (_, text) = generate(dir.path()).unwrap();
        assert!(text.contains("| MMLU | 0.3 |") && !text.contains("0.1 |"), "{text}");
    }

    #[test]
    fn the_clock_stops_before_reinforcement_learning() {
        let header = Header { started: 0.0, dollars_per_hour: None, environment: Map::new() };
        let stages = [
            section("sft", 100.0, Some(Column::Sft), json!({})),
            section("rl", 5000.0, Some(Column::Rl), json!({})),
        ];
        let text = summary(&header, &stages);
        assert!(text.contains("Wall-clock time: 3 min 20 s") && !text.contains("Cost"), "{text}");
    }

    #[test]
    fn nothing_and_damage_are_said_clearly() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(generate(dir.path()), Err(ReportError::Nothing { .. })));
        reset(dir.path(), None).unwrap();
        assert!(matches!(generate(dir.path()), Err(ReportError::Nothing { .. })));
        fs::write(report_folder(dir.path()).join("section-base.json"), "{\"title\":").unwrap();
        let error = generate(dir.path()).unwrap_err().to_string();
        assert!(error.contains("section-base.json is damaged"), "{error}");
        reset(dir.path(), None).unwrap();
        assert!(matches!(generate(dir.path()), Err(ReportError::Nothing { .. })));
    }

    #[test]
    fn numbers_are_short() {
        let cells =
            [json!(0.0), json!(1.0), json!(0.25), json!(1e-9), json!(2048), json!(true), json!([1, 2])];
        assert_eq!(cells.map(|value| cell(&value)), ["0", "1", "0.25", "1.000e-9", "2048", "true", "[1,2]"]);
    }
}
