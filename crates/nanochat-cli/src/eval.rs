//! `nanochat eval`: measure a model.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use nanochat::chat_eval::{self, ChatScores, Score, WrongAnswer};
use nanochat::checkpoint::{LoadedModel, Stage};
use nanochat::dataloader::DataLoader;
use nanochat::dataset::{OnBadShard, Shards, Split};
use nanochat::loss_eval::BitsPerByte;
use nanochat::report::{Column, Section, log_section};
use nanochat::values;
use nanochat_tensor::{Device, Precision};
use serde_json::json;

use crate::chat::ModelArgs;

#[derive(clap::Subcommand)]
pub enum EvalCommand {
    /// Put held-out questions of the built-in world to a chat model
    Chat(ChatArgs),
    /// Measure bits per byte on training and validation text
    Bpb(BpbArgs),
}

#[derive(clap::Args)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Questions of each kind
    #[arg(long, value_parser = values::count, default_value_t = 200)]
    questions: usize,
    /// File of questions [default: {base-dir}/chat_data/questions.jsonl]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print this many wrong answers
    #[arg(long, default_value_t = 0)]
    show: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct BpbArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder of parquet shards [default: {base-dir}/base_data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Tokens of each split to measure on
    #[arg(long, default_value_t = 262_144)]
    eval_tokens: usize,
    /// Rows in one forward pass
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_024), default_value_t = 8)]
    device_batch_size: usize,
    /// Measure as if weights were stored in f32, bf16 or int8, as chat can do
    #[arg(long, default_value_t = Precision::F32)]
    weights: Precision,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Wrong answers that the report shows.
const WRONG_REPORTED: usize = 8;

pub fn run(command: &EvalCommand, base_dir: &Path, device: &Device) -> Result<()> {
    match command {
        EvalCommand::Chat(args) => chat(args, base_dir, device),
        EvalCommand::Bpb(args) => bpb(args, base_dir, device),
    }
}

fn chat(args: &ChatArgs, base_dir: &Path, device: &Device) -> Result<()> {
    let loaded = args.model.load(base_dir, device)?;
    let file = args.file.clone().unwrap_or_else(|| base_dir.join("chat_data").join("questions.jsonl"));
    let questions = chat_eval::read_questions(&file, args.questions)?;
    let started = Instant::now();
    let bar = ProgressBar::new(questions.len() as u64)
        .with_style(ProgressStyle::with_template("eval {bar:24} {pos}/{len} questions · {elapsed} gone")?);
    let scores = chat_eval::evaluate(&loaded.model, &loaded.tokenizer, &questions, || bar.inc(1))?;
    bar.finish_and_clear();
    report_scores(&scores, &loaded, started.elapsed().as_secs_f64(), base_dir)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&scores)?);
    } else {
        print_scores(&scores);
        for wrong in scores.wrong.iter().take(args.show) {
            println!("\n[{}] {}", wrong.kind, wrong.question);
            println!("  answered: {}", wrong.answer.replace('\n', "\n            "));
            println!("  expected: {}", wrong.expected);
        }
    }
    Ok(())
}

/// Scores and a few wrong answers into the report.
fn report_scores(scores: &ChatScores, loaded: &LoadedModel, seconds: f64, base_dir: &Path) -> Result<()> {
    let is_base = loaded.folder.iter().any(|part| part == Stage::Base.folder());
    let column = Some(if is_base { Column::Base } else { Column::Sft });
    let mut section = Section { seconds, column, ..Section::new("Chat evaluation") };
    section.settings.insert("model".into(), loaded.folder.display().to_string().into());
    for (kind, score) in &scores.by_kind {
        section.metrics.insert(kind.to_string(), score.share().into());
    }
    section.metrics.insert("in its language".into(), scores.language.share().into());
    section.metrics.insert("whole characters".into(), scores.whole_characters.share().into());
    let wrong = scores.wrong.iter().take(WRONG_REPORTED);
    let line = |wrong: &WrongAnswer| {
        let answer = wrong.answer.replace('\n', " ");
        format!("- {}: {} → {answer} (expected: {})\n", wrong.kind, wrong.question, wrong.expected)
    };
    let lines: String = wrong.map(line).collect();
    section.text = (!lines.is_empty()).then(|| format!("Some wrong answers:\n\n{lines}"));
    Ok(log_section(base_dir, &section)?)
}

fn print_scores(scores: &ChatScores) {
    let row = |name: &str, score: &Score| {
        let (share, margin) = (100.0 * score.share(), 100.0 * score.margin());
        println!("{name:<20} {share:6.1} % ± {margin:3.1}   ({} of {})", score.right, score.total);
    };
    scores.by_kind.iter().for_each(|(kind, score)| row(&kind.to_string(), score));
    row("in its language", &scores.language);
    row("whole characters", &scores.whole_characters);
}

fn bpb(args: &BpbArgs, base_dir: &Path, device: &Device) -> Result<()> {
    let mut loaded = args.model.load(base_dir, &Device::Cpu)?;
    if args.weights != Precision::F32 {
        loaded.model = loaded.model.rounded(args.weights);
    }
    loaded.model = loaded.model.to_device(device);
    let dir = args.data_dir.clone().unwrap_or_else(|| base_dir.join("base_data"));
    let shards = Shards::open(&dir, OnBadShard::Refuse)?;
    let byte_lengths = loaded.tokenizer.byte_lengths();
    let shape = [args.device_batch_size, loaded.model.config.sequence_len];
    let mut values = serde_json::Map::new();
    for (name, split) in [("train", Split::Train), ("val", Split::Val)] {
        let mut loader = DataLoader::new(&shards, split, &loaded.tokenizer, shape, [0, 1], None)?;
        let mut bpb = BitsPerByte::default();
        for _ in 0..args.eval_tokens.div_ceil(shape[0] * shape[1]).max(1) {
            bpb.add(&loaded.model, &loader.next_batch()?, &byte_lengths);
        }
        if !args.json {
            println!("{name:<6} {:.4} bits per byte", bpb.value());
        }
        values.insert(format!("{name}_bpb"), json!(bpb.value()));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&values)?);
    }
    Ok(())
}
