//! `nanochat eval exam`: grades a model on exams as plain text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nanochat::chat::tasks::{EXAMS, Exam, Folders, TaskError};
use nanochat::measure::exam_eval;
use nanochat::measure::score::Score;
use nanochat::model::checkpoint::Stage;
use nanochat::report::{Section, log_section};
use nanochat::terminal::flag_values;
use nanochat_tensor::{Comm, Device};
use serde_json::{Map, json};

use super::{row, took};
use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct ExamArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// C-Eval, CMMLU or MMLU; may be repeated [default: those that were downloaded]
    #[arg(long, short = 'a', value_name = "NAME")]
    task: Vec<String>,
    /// Folder of data sets, one folder each [default: {base-dir}/task_data]
    #[arg(long, value_name = "FOLDER")]
    task_dir: Option<PathBuf>,
    /// Solved questions of the same subject before each question
    #[arg(long, value_parser = flag_values::amount, default_value_t = 5)]
    shots: usize,
    /// Questions of each exam (0: all)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 0)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ExamArgs, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let named = |name: &String| {
        Exam::named(name).with_context(|| format!("there is no exam {name}; choose of C-Eval, CMMLU, MMLU"))
    };
    let exams: Vec<&Exam> = args.task.iter().map(named).collect::<Result<_>>()?;
    let folder = args.task_dir.clone().unwrap_or_else(|| Folders::of(base_dir).sets);
    let loaded = args.model.load(base_dir, device)?;
    let run = comm.is_first().then(|| args.model.tell_measured(&loaded)).flatten();
    let started = Instant::now();
    let mut scores: Vec<(&str, Score)> = Vec::new();
    for exam in if exams.is_empty() { EXAMS.iter().collect() } else { exams } {
        let (model, tokenizer) = (&loaded.model, &loaded.tokenizer);
        match exam_eval::evaluate(model, tokenizer, exam, &folder, args.shots, args.limit, comm) {
            Err(TaskError::Missing { .. }) if args.task.is_empty() => {}
            score => scores.push((exam.name, score?)),
        }
    }
    if scores.is_empty() {
        bail!(
            "there are no exams in {}; `nanochat data download ceval cmmlu mmlu` fetches them",
            folder.display()
        );
    }
    if !comm.is_first() {
        return Ok(());
    }
    if let Some(run) = run {
        let mut section = section(&scores, args, run.stage);
        section.settings.insert("model".into(), loaded.folder.display().to_string().into());
        section.seconds = started.elapsed().as_secs_f64();
        log_section(base_dir, &run.tag, &section)?;
    }
    if args.json {
        let scores = scores.iter().map(|(name, score)| (name.to_string(), json!(score)));
        let mut values: Map<_, _> = scores.collect();
        values.insert("model".into(), loaded.folder.display().to_string().into());
        crate::output::print_json(&values)?;
    } else {
        scores.iter().for_each(|(name, score)| println!("{}", row(name, score)));
        println!("{}", took(started));
    }
    Ok(())
}

/// Returns the section. The scores have other names than those of chats, which answer without examples.
fn section(scores: &[(&str, Score)], args: &ExamArgs, stage: Stage) -> Section {
    let mut section = Section::new(&format!("Exams after {}", stage.name()));
    section.column = Some(stage.into());
    section.settings.insert("solved questions before each".into(), args.shots.into());
    if args.limit > 0 {
        section.settings.insert("questions of each exam".into(), args.limit.into());
    }
    for (name, score) in scores {
        let ([low, high], Score { right, total }) = (score.interval(), score);
        section.metrics.insert(format!("{name} {}-shot", args.shots), score.share().into());
        section
            .results
            .insert(name.to_string(), format!("{right} of {total} ({low:.4} to {high:.4})").into());
    }
    section
}
