//! Reads the data of CORE, a bundle: `core.yaml` lists the tasks, `eval_meta_data.csv` has the accuracy of guessing in
//! each, and `eval_data/` has the items as JSON lines.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::files::file_error::FileError;
use crate::files::table::{TableRow, rows};
use crate::text::python_random::PythonRandom;

const SHUFFLE_SEED: i64 = 1337;
/// The seed for the examples of an item, plus the item's index.
const FEWSHOT_SEED: i64 = 1234;
/// The maximum bytes of `core.yaml`, which has a few kilobytes.
const MAX_YAML: u64 = 1 << 20;

pub struct Bundle {
    folder: PathBuf,
    pub tasks: Vec<BundleTask>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BundleTask {
    pub label: String,
    /// The path of the items in `eval_data/`.
    pub file: String,
    pub format: Format,
    pub num_fewshot: usize,
    /// The text between a question and its answer.
    pub delimiter: String,
    /// The accuracy of guessing, 0 to 1.
    pub baseline: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One question, several answers: `query`, `choices`, `gold`.
    MultipleChoice,
    /// Several contexts, one continuation: `context_options`, `continuation`, `gold`.
    Schema,
    /// `context` and the `continuation` that must be written exactly.
    LanguageModeling,
}

/// The parts of a prompt. An option is a pair of texts: before and after the delimiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub options: Vec<(String, String)>,
    pub gold: usize,
}

/// The scored items of a task, each with the indices of the items shown before it as examples.
pub struct Items {
    pub items: Vec<Item>,
    pub examples: Vec<Vec<usize>>,
}

impl Item {
    /// Returns the bytes of all options.
    fn size(&self) -> usize {
        self.options.iter().map(|(before, after)| before.len() + after.len()).sum()
    }
}

impl Items {
    /// Returns the bytes of item `i` with its examples, which its options share; the work is roughly proportional to
    /// it.
    pub fn size(&self, i: usize) -> usize {
        let shown = |&example: &usize| {
            let item = &self.items[example];
            item.options[item.gold].0.len() + item.options[item.gold].1.len()
        };
        self.items[i].size() + self.examples[i].iter().map(shown).sum::<usize>()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("there is no CORE bundle in {}: it has {name} and eval_data/, as in nanochat's eval_bundle.zip, which `nanochat data download eval-bundle` fetches", folder.display())]
    NoBundle { folder: PathBuf, name: &'static str },
    #[error("{}, line {line}: {reason}", path.display())]
    List { path: PathBuf, line: usize, reason: String },
    #[error("{} does not say what guessing gets in {label}", path.display())]
    NoBaseline { path: PathBuf, label: String },
    #[error("{label} shows {num_fewshot} examples before each item, so it needs {} items; the limit or {} leaves {found}", num_fewshot + 1, path.display())]
    TooFewItems { label: String, num_fewshot: usize, path: PathBuf, found: usize },
    #[error("there is none of the tasks' files in {}", folder.join("eval_data").display())]
    Nothing { folder: PathBuf },
    #[error("the bundle has no task {label}; it has {all}")]
    Unknown { label: String, all: String },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Bundle {
    /// Reads the list of tasks; items are read only on request.
    pub fn open(folder: &Path) -> Result<Bundle, BundleError> {
        let (list, meta) = (folder.join("core.yaml"), folder.join("eval_meta_data.csv"));
        for (path, name) in [(&list, "core.yaml"), (&meta, "eval_meta_data.csv")] {
            if !path.is_file() {
                return Err(BundleError::NoBundle { folder: folder.into(), name });
            }
        }
        let mut baselines = HashMap::new();
        for row in rows(&meta)? {
            let row = row?;
            if let Ok(percent) = row.string("Random baseline")?.trim().parse::<f64>() {
                baselines.insert(row.string("Eval Task")?.to_string(), percent / 100.0);
            }
        }
        let mut tasks = read_list(&list)?;
        for task in &mut tasks {
            let baseline = baselines.get(&task.label);
            let none = || BundleError::NoBaseline { path: meta.clone(), label: task.label.clone() };
            task.baseline = *baseline.ok_or_else(none)?;
        }
        Ok(Bundle { folder: folder.into(), tasks })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps only the tasks with these labels. Fails if a label is unknown.
    pub fn keep(&mut self, labels: &[String]) -> Result<(), BundleError> {
        if let Some(label) = labels.iter().find(|label| self.tasks.iter().all(|task| task.label != **label)) {
            let all: Vec<&str> = self.tasks.iter().map(|task| task.label.as_str()).collect();
            return Err(BundleError::Unknown { label: label.clone(), all: all.join(", ") });
        }
        self.tasks.retain(|task| labels.contains(&task.label));
        Ok(())
    }

    /// Returns the first `limit` items (0: all) in the reference's order, with their examples, or None if the file is
    /// missing. Fails if there are too few items for the examples.
    pub fn items(&self, task: &BundleTask, limit: usize) -> Result<Option<Items>, BundleError> {
        let path = self.folder.join("eval_data").join(&task.file);
        if !path.exists() {
            return Ok(None);
        }
        let item = |row: Result<TableRow, FileError>| item(&row?, task.format);
        let mut items = rows(&path)?.map(item).collect::<Result<Vec<_>, _>>()?;
        PythonRandom::new(SHUFFLE_SEED).shuffle(&mut items);
        if limit > 0 {
            items.truncate(limit);
        }
        let (found, num_fewshot) = (items.len(), task.num_fewshot);
        if found <= num_fewshot {
            let label = task.label.clone();
            return Err(BundleError::TooFewItems { label, num_fewshot, path, found });
        }
        let examples = |i: usize| {
            let others = PythonRandom::new(FEWSHOT_SEED + i as i64).sample(found - 1, num_fewshot);
            others.into_iter().map(|other| other + usize::from(other >= i)).collect()
        };
        let examples = (0..found).map(examples).collect();
        Ok(Some(Items { items, examples }))
    }
}

fn item(row: &TableRow, format: Format) -> Result<Item, FileError> {
    Ok(match format {
        Format::LanguageModeling => {
            let context = row.string("context")?.trim().to_string();
            Item { options: vec![(context, row.text("continuation")?.into())], gold: 0 }
        }
        Format::MultipleChoice => {
            let (query, choices) = (row.string("query")?, row.strings("choices")?);
            let gold = row.index("gold", choices.len())?;
            Item { options: choices.into_iter().map(|choice| (query.to_string(), choice)).collect(), gold }
        }
        Format::Schema => {
            let (contexts, end) = (row.strings("context_options")?, row.text("continuation")?);
            let gold = row.index("gold", contexts.len())?;
            Item { options: contexts.into_iter().map(|context| (context, end.to_string())).collect(), gold }
        }
    })
}

/// Reads the list of tasks. It supports the part of YAML that the list uses: `- ` begins a task, then come `key: value`
/// lines, whose value is plain, in double quotes, or in brackets.
fn read_list(path: &Path) -> Result<Vec<BundleTask>, BundleError> {
    let too_long = || FileError::BadFile { path: path.into(), reason: "it is not a list of tasks".into() };
    let length = std::fs::metadata(path).map_or(0, |file| file.len());
    let text = std::fs::read_to_string(path).ok().filter(|_| length <= MAX_YAML).ok_or_else(too_long)?;
    let mut tasks: Vec<(usize, HashMap<&str, String>)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let bad = |reason: &str| BundleError::List { path: path.into(), line: i + 1, reason: reason.into() };
        let line = line.trim_end();
        let entry = line.trim_start();
        if entry.is_empty() || entry.starts_with('#') || !line.starts_with([' ', '-']) {
            continue;
        }
        let entry = match entry.strip_prefix('-') {
            Some(first) => {
                tasks.push((i + 1, HashMap::new()));
                first.trim_start()
            }
            None => entry,
        };
        if entry.is_empty() {
            continue;
        }
        let (key, value) = entry.split_once(':').ok_or_else(|| bad("neither `key: value` nor `-`"))?;
        let value =
            scalar(value.trim()).ok_or_else(|| bad("the value is not plain, quoted or in brackets"))?;
        let (_, fields) = tasks.last_mut().ok_or_else(|| bad("a value before the first `-`"))?;
        fields.insert(key.trim(), value);
    }
    tasks.into_iter().map(|(line, fields)| task(path, line, fields)).collect()
}

fn scalar(value: &str) -> Option<String> {
    if value.starts_with('"') {
        return serde_json::from_str(value).ok();
    }
    let inner = value.strip_prefix('[').map_or(Some(value), |rest| rest.strip_suffix(']'));
    inner.map(|inner| inner.trim().to_string())
}

fn task(path: &Path, line: usize, mut fields: HashMap<&str, String>) -> Result<BundleTask, BundleError> {
    let bad = |reason: String| BundleError::List { path: path.into(), line, reason };
    let mut field = |key: &str| fields.remove(key).ok_or_else(|| bad(format!("the task has no `{key}`")));
    let delimiter = field("continuation_delimiter").unwrap_or_else(|_| " ".into());
    let (label, file) = (field("label")?, field("dataset_uri")?);
    if !Path::new(&file).components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return Err(bad(format!("dataset_uri {file} leads out of eval_data/")));
    }
    let num_fewshot = field("num_fewshot")?;
    let num_fewshot =
        num_fewshot.parse().map_err(|_| bad(format!("num_fewshot {num_fewshot} is not a number")))?;
    let format = match field("icl_task_type")?.as_str() {
        "multiple_choice" => Format::MultipleChoice,
        "schema" => Format::Schema,
        "language_modeling" => Format::LanguageModeling,
        other => return Err(bad(format!("unknown icl_task_type {other}"))),
    };
    Ok(BundleTask { label, file, format, num_fewshot, delimiter, baseline: 0.0 })
}
