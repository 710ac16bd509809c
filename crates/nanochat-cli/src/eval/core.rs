//! `nanochat eval core`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use nanochat::checkpoint::Stage;
use nanochat::core_eval::{self, Bundle, CoreScores};
use nanochat::report::{Section, log_section};
use nanochat_tensor::{Comm, Device};

use super::row;
use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct CoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder with core.yaml, eval_meta_data.csv and eval_data/ [default: {base-dir}/eval_bundle]
    #[arg(long, value_name = "FOLDER")]
    bundle: Option<PathBuf>,
    /// Items of each task (0: all)
    #[arg(long, alias = "max-per-task", default_value_t = 0)]
    limit: usize,
    /// Only this task, by its label; may be repeated
    #[arg(long, value_name = "LABEL")]
    task: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &CoreArgs, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let folder = args.bundle.clone().unwrap_or_else(|| base_dir.join("eval_bundle"));
    let mut bundle = Bundle::open(&folder)?;
    let whole = args.task.is_empty();
    if !whole {
        bundle.keep(&args.task)?;
    }
    let loaded = args.model.load_for_text(base_dir, device)?;
    let started = Instant::now();
    let scores = core_eval::evaluate(&loaded.model, &loaded.tokenizer, &bundle, args.limit, comm, |task| {
        if comm.is_first() && !args.json {
            println!("{}   centered {:7.4}", row(&task.label, &task.score), task.centered);
        }
    })?;
    if !comm.is_first() {
        return Ok(());
    }
    if whole {
        let stage = Stage::of(&loaded.folder).unwrap_or(Stage::Base);
        let mut section = section(&scores, stage, args.limit);
        section.seconds = started.elapsed().as_secs_f64();
        section.settings.insert("model".into(), loaded.folder.display().to_string().into());
        log_section(base_dir, &section)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&scores)?);
    } else if whole {
        for file in &scores.missing {
            println!("missing: {}", folder.join("eval_data").join(file).display());
        }
        println!("{} {:.4}", name(&scores), scores.core);
    }
    Ok(())
}

/// A partial score must not be taken for the whole one.
fn name(scores: &CoreScores) -> String {
    match scores.missing.len() {
        0 => "CORE".into(),
        missing => format!("CORE (partial: {missing} of {} tasks missing)", scores.tasks.len() + missing),
    }
}

fn section(scores: &CoreScores, stage: Stage, limit: usize) -> Section {
    let mut section = Section::new(&format!("CORE after {}", stage.name()));
    section.column = Some(stage.into());
    section.metrics.insert(name(scores), scores.core.into());
    if limit > 0 {
        section.settings.insert("items of each task".into(), limit.into());
    }
    for task in &scores.tasks {
        let [low, high] = task.interval;
        let text = format!("{:.4} ({low:.4} to {high:.4}), centered {:.4}", task.accuracy, task.centered);
        section.results.insert(task.label.clone(), text.into());
    }
    for file in &scores.missing {
        section.results.insert(file.clone(), "missing".into());
    }
    section
}
