//! `nanochat eval core`: computes CORE.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use nanochat::measure::core_eval::{self, Bundle, CoreScores};
use nanochat::model::checkpoint::Stage;
use nanochat::report::{Section, fields, log_section};
use nanochat::terminal::flag_values;
use nanochat::text::chinese;
use nanochat_tensor::{Comm, Device};

use super::{row, took};
use crate::chat::ModelArgs;

/// The arguments of `eval core`. The default is the base model, since CORE is a score of base models.
#[derive(clap::Args)]
#[command(mut_arg("source", |source| source.help("Training stage of the model").default_value("base")))]
pub struct CoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder with core.yaml, eval_meta_data.csv and eval_data/, or zh: the built-in test of poems, idioms and
    /// translation [default: {base-dir}/eval_bundle]
    #[arg(long, value_name = "FOLDER|zh")]
    bundle: Option<PathBuf>,
    /// Items of each task (0: all)
    #[arg(long, alias = "max-per-task", value_parser = flag_values::amount, default_value_t = 0)]
    limit: usize,
    /// Only this task, by its label; may be repeated
    #[arg(long, value_name = "LABEL")]
    task: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &CoreArgs, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let is_chinese = args.bundle.as_deref() == Some(Path::new("zh"));
    let folder = match &args.bundle {
        Some(folder) if !is_chinese => folder.clone(),
        Some(_) => base_dir.join("zh_bundle"),
        None => base_dir.join("eval_bundle"),
    };
    if is_chinese && comm.is_first() {
        chinese::write_bundle(&folder).with_context(|| format!("failed to write {}", folder.display()))?;
    }
    comm.barrier(); // the other ranks read what the first has written
    let mut bundle = Bundle::open(&folder)?;
    let whole = args.task.is_empty();
    if !whole {
        bundle.keep(&args.task)?;
    }
    let loaded = args.model.load(base_dir, device)?;
    let run = comm.is_first().then(|| args.model.tell_measured(&loaded)).flatten();
    let started = Instant::now();
    let scores = core_eval::evaluate(&loaded.model, &loaded.tokenizer, &bundle, args.limit, comm, |task| {
        if comm.is_first() && !args.json {
            let cropped =
                if task.cropped > 0 { format!("   {} cropped", task.cropped) } else { String::new() };
            println!("{}   centered {:7.4}{cropped}", row(&task.label, &task.score), task.centered);
        }
    })?;
    if !comm.is_first() {
        return Ok(());
    }
    if let Some(run) = run.filter(|_| whole) {
        let mut section = match is_chinese {
            true => chinese_section(&scores, run.stage),
            false => section(&scores, run.stage, args.limit),
        };
        section.seconds = started.elapsed().as_secs_f64();
        section.settings.insert("model".into(), loaded.folder.display().to_string().into());
        log_section(base_dir, &run.tag, &section)?;
    }
    if args.json {
        let mut values = fields(&scores);
        values.insert("model".into(), loaded.folder.display().to_string().into());
        crate::output::print_json(&values)?;
    } else {
        for file in &scores.missing {
            println!("missing: {}", folder.join("eval_data").join(file).display());
        }
        if let Some(items) = scores.cropped_items() {
            println!("cropped to the model's {} positions: {items}", loaded.model.max_positions());
        }
        println!("{} {:.4}", scores.name(), scores.mean);
        println!("{}", took(started));
    }
    Ok(())
}

/// Returns the section of the built-in test, which is not CORE: its tasks have their own names in the table of metrics.
fn chinese_section(scores: &CoreScores, stage: Stage) -> Section {
    let mut section = Section::new(&format!("Chinese after {}", stage.name()));
    section.column = Some(stage.into());
    for task in &scores.tasks {
        let [low, high] = task.interval;
        section.metrics.insert(task.label.clone(), task.accuracy.into());
        section
            .results
            .insert(task.label.clone(), format!("{:.4} ({low:.4} to {high:.4})", task.accuracy).into());
    }
    section
}

fn section(scores: &CoreScores, stage: Stage, limit: usize) -> Section {
    let mut section = Section::new(&format!("Few-shot tasks after {}", stage.name()));
    section.column = Some(stage.into());
    section.metrics.insert(scores.name(), scores.mean.into());
    if limit > 0 {
        section.settings.insert("items of each task".into(), limit.into());
    }
    for task in &scores.tasks {
        let [low, high] = task.interval;
        let mut text = format!("{:.4} ({low:.4} to {high:.4}), centered {:.4}", task.accuracy, task.centered);
        if task.cropped > 0 {
            text += &format!(", {} cropped", task.cropped);
        }
        section.results.insert(task.label.clone(), text.into());
    }
    section.results.insert("few-shot items cropped".into(), scores.cropped_items().into());
    for file in &scores.missing {
        section.results.insert(file.clone(), "missing".into());
    }
    section
}
