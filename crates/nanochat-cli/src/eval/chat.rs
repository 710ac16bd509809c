//! `nanochat eval chat`: grades a chat model on tasks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nanochat::chat::tasks::{self, CHAT_CORE, Folders, Split, Task, TaskError, TaskSlice};
use nanochat::engine::sampler::SampleOptions;
use nanochat::files::lines::BadLines;
use nanochat::measure::chat_eval::{self, ChatEvalOptions, ChatTaskScore, WrongAnswer, chat_core};
use nanochat::measure::score::Score;
use nanochat::model::checkpoint::{LoadedModel, Stage};
use nanochat::report::{Section, log_section};
use nanochat::terminal::flag_values;
use nanochat::world;
use nanochat_tensor::{Comm, Device};
use serde_json::json;

use super::{row, took};
use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Task by name, or a .json or .jsonl file of yours; may be repeated. AGIEval-en, AGIEval-zh and AGIEval-FILE are
    /// parts of AGIEval [default: the built-in world's if it was made, and those of ChatCORE that were downloaded]
    #[arg(long, short = 'a', value_name = "NAME|FILE")]
    task: Vec<String>,
    /// Folder of data sets, one folder each [default: {base-dir}/task_data]
    #[arg(long, value_name = "FOLDER")]
    task_dir: Option<PathBuf>,
    /// How to treat an unusable line of such a file: fail, or skip it and say how many were skipped
    #[arg(long, value_enum, default_value_t)]
    bad_lines: BadLines,
    /// Questions of each task (0: all)
    #[arg(long, alias = "questions", value_parser = flag_values::amount, default_value_t = 0)]
    limit: usize,
    /// Longest answer, in tokens
    #[arg(long, value_parser = flag_values::count, default_value_t = 512)]
    max_tokens: usize,
    /// Answers to each question; it counts as right if one of them is
    #[arg(long, value_parser = flag_values::count, default_value_t = 1)]
    samples: usize,
    /// Sampling temperature; 0 always takes the likeliest token
    #[arg(long, value_parser = flag_values::temperature, default_value_t = 0.0)]
    temperature: f32,
    /// Sample only from the K likeliest tokens; 0 turns this off
    #[arg(long, value_parser = flag_values::amount, default_value_t = 50)]
    top_k: usize,
    /// Run generated programs without a sandbox, with all of your permissions
    #[arg(long)]
    unsafe_no_sandbox: bool,
    /// Print this many wrong answers of each task
    #[arg(long, value_parser = flag_values::amount, default_value_t = 0)]
    show: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The number of wrong answers of each task in the report.
const WRONG_REPORTED: usize = 2;
/// The longest list of task names in a section's title, which is also a file name.
const LONGEST_LIST: usize = 60;

pub fn run(args: &ChatArgs, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let loaded = args.model.load(base_dir, device)?;
    if comm.is_first() {
        args.model.tell(&loaded);
    }
    let tasks = open(args, base_dir, comm)?;
    let started = Instant::now();
    let sample =
        SampleOptions { temperature: args.temperature, top_k: args.top_k, ..SampleOptions::default() };
    let keep_wrong = args.show.max(WRONG_REPORTED);
    let options = ChatEvalOptions { max_tokens: args.max_tokens, samples: args.samples, sample, keep_wrong };
    let mine = |task: &TaskSlice| task.len().div_ceil(comm.world_size()) as u64; // or one fewer
    let bar = ProgressBar::new(tasks.iter().map(mine).sum())
        .with_style(ProgressStyle::with_template("eval {bar:24} {pos}/{len} questions · {elapsed} gone")?);
    let mut scores = Vec::new();
    for task in &tasks {
        let (model, tokenizer) = (&loaded.model, &loaded.tokenizer);
        let note = task.note().filter(|_| comm.is_first());
        if let Some(note) = note {
            bar.suspend(|| eprintln!("{}: {note}", task.name()));
        }
        let score = chat_eval::evaluate(model, tokenizer, task, &options, comm, &|| bar.inc(1))?;
        if comm.is_first() && !args.json {
            bar.suspend(|| print_score(&score, args.show));
        }
        scores.push(score);
    }
    bar.finish_and_clear();
    if !comm.is_first() {
        return Ok(());
    }
    let totals = totals(&scores);
    let core = chat_core(&scores);
    if args.json {
        let (model, core) = (loaded.folder.display().to_string(), core.as_ref().ok());
        crate::output::print_json(&json!({"model": model, "tasks": scores, "chat_core": core}))?;
    } else {
        totals.iter().for_each(|(name, score)| println!("{}", row(name, score)));
        match &core {
            Ok(core) => println!("ChatCORE {core:.4}"),
            Err(missing) if missing.len() < CHAT_CORE.len() => {
                println!("no ChatCORE: it is the mean of six tasks, and {} did not run", missing.join(", "));
            }
            Err(_) => {}
        }
        println!("{}", took(started));
    }
    let Some(run) = args.model.run_of(&loaded) else { return Ok(()) };
    let mut section = section(&scores, &totals, &loaded, run.stage, args.limit);
    if !args.task.is_empty() {
        // A separate section, so that it does not replace that of other tasks.
        let names: Vec<&str> = scores.iter().map(|score| score.task.as_str()).collect();
        section.title += &format!(": {}", listed(&names));
    }
    section.seconds = started.elapsed().as_secs_f64();
    if let Ok(core) = core {
        section.metrics.insert("ChatCORE".into(), core.into());
    }
    Ok(log_section(base_dir, &run.tag, &section)?)
}

/// Returns the requested tasks, or else all that are available. HumanEval is left out if there is no Python.
fn open(args: &ChatArgs, base_dir: &Path, comm: &Comm) -> Result<Vec<TaskSlice>> {
    let mut folders =
        Folders { unconfined: args.unsafe_no_sandbox, bad_lines: args.bad_lines, ..Folders::of(base_dir) };
    folders.sets = args.task_dir.clone().unwrap_or(folders.sets);
    let mut tasks = Vec::new();
    let mut add = |task: Box<dyn Task>| {
        let end = if args.limit > 0 { args.limit } else { usize::MAX };
        tasks.push(TaskSlice::new(Arc::<dyn Task>::from(task), 0..end, 1));
    };
    let explained = |name: &str, error: TaskError| {
        if comm.is_first() {
            eprintln!("{name} is left out: {error}");
        }
    };
    for name in &args.task {
        let kinds = if name == "world" { world_kinds() } else { vec![name.clone()] };
        for name in kinds {
            match tasks::open(&name, Split::Test, &folders) {
                Err(error @ TaskError::Sandbox(_)) if args.task.len() > 1 => explained(&name, error),
                task => add(task?),
            }
        }
    }
    if args.task.is_empty() {
        if folders.world.join("questions.jsonl").exists() {
            for name in world_kinds() {
                add(tasks::open(&name, Split::Test, &folders)?);
            }
        }
        if folders.sets.exists() {
            for name in CHAT_CORE {
                match tasks::open(name, Split::Test, &folders) {
                    Err(error @ (TaskError::Missing { .. } | TaskError::Sandbox(_))) => {
                        explained(name, error)
                    }
                    task => add(task?),
                }
            }
        }
    }
    if tasks.is_empty() {
        bail!(
            "there are no questions: name a --task, put data sets into {}, or let `nanochat data make` write {}",
            folders.sets.display(),
            folders.world.join("questions.jsonl").display()
        );
    }
    Ok(tasks)
}

/// Returns the names, shortened to the limit.
fn listed(names: &[&str]) -> String {
    let fits = |&n: &usize| names[..n].join(", ").len() <= LONGEST_LIST;
    let shown = (1..=names.len()).take_while(fits).last().unwrap_or(1);
    match names.len() - shown {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..shown].join(", ")),
    }
}

fn world_kinds() -> Vec<String> {
    world::QuestionKind::ALL.iter().map(world::QuestionKind::to_string).collect()
}

/// Returns the totals of language and characters over all tasks that have them.
fn totals(scores: &[ChatTaskScore]) -> Vec<(&'static str, Score)> {
    let sum = |of: fn(&ChatTaskScore) -> Option<Score>| {
        let mut sum = Score::default();
        for score in scores.iter().filter_map(of) {
            sum.right += score.right;
            sum.total += score.total;
        }
        sum
    };
    let totals =
        [("in its language", sum(|s| s.in_its_language)), ("whole characters", sum(|s| s.whole_characters))];
    totals.into_iter().filter(|(_, score)| score.total > 0).collect()
}

fn print_score(score: &ChatTaskScore, show: usize) {
    println!("{}", row(&score.task, &score.score));
    for wrong in score.wrong.iter().take(show) {
        println!("\n[{}] {}", score.task, wrong.question);
        println!("  answered: {}", wrong.answer.replace('\n', "\n            "));
        println!("  expected: {}\n", wrong.expected.replace('\n', "\n            "));
    }
}

/// Returns the scores and, for the built-in world's tasks, some wrong answers. Items of public sets are not published,
/// so that no model trains on them.
fn section(
    scores: &[ChatTaskScore],
    totals: &[(&str, Score)],
    loaded: &LoadedModel,
    stage: Stage,
    limit: usize,
) -> Section {
    let mut section = Section::new(&format!("Chat evaluation after {}", stage.name()));
    section.column = Some(stage.into());
    section.settings.insert("model".into(), loaded.folder.display().to_string().into());
    if limit > 0 {
        section.settings.insert("questions of each task".into(), limit.into());
    }
    for score in scores {
        section.metrics.insert(score.task.clone(), score.accuracy.into());
        let ([low, high], Score { right, total }) = (score.interval, score.score);
        section
            .results
            .insert(score.task.clone(), format!("{right} of {total} ({low:.4} to {high:.4})").into());
    }
    for (name, score) in totals {
        section.metrics.insert(name.to_string(), score.share().into());
    }
    let world = world_kinds();
    let own = scores.iter().filter(|score| world.contains(&score.task));
    let line = |task: &str, wrong: &WrongAnswer| {
        let answer = wrong.answer.replace('\n', " ");
        format!("- {task}: {} → {answer} (expected: {})\n", wrong.question, wrong.expected)
    };
    let lines: String = own
        .flat_map(|score| score.wrong.iter().take(WRONG_REPORTED).map(|wrong| line(&score.task, wrong)))
        .collect();
    section.text = (!lines.is_empty()).then(|| format!("Some wrong answers:\n\n{lines}"));
    section
}
