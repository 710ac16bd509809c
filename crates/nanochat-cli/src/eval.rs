//! `nanochat eval`: measures a model.

mod chat;
mod core;
mod exam;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use nanochat::measure::loss_eval::bits_per_byte;
use nanochat::measure::score::Score;
use nanochat::terminal::escape;
use nanochat::terminal::flag_values;
use nanochat::text::dataloader::DataLoader;
use nanochat::text::dataset::{OnBadShard, Shards, Split};
use nanochat_tensor::{Comm, Device, Dtype};
use serde_json::json;

use crate::chat::ModelArgs;

#[derive(clap::Subcommand)]
pub enum EvalCommand {
    /// Grade a chat model on tasks: ARC, MMLU, GSM8K, HumanEval, C-Eval, AGIEval and more, or a file of your own
    Chat(chat::ChatArgs),
    /// Compute CORE, the few-shot score of base models, from a bundle of 22 tasks
    Core(core::CoreArgs),
    /// Grade a model on C-Eval, CMMLU and MMLU as plain text, with solved questions before each
    Exam(exam::ExamArgs),
    /// Measure bits per byte on training and validation text
    Bpb(BpbArgs),
}

#[derive(clap::Args)]
pub struct BpbArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder of parquet shards [default: {base-dir}/base_data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Tokens of each split to measure
    #[arg(long, value_parser = flag_values::amount, default_value_t = 262_144)]
    eval_tokens: usize,
    /// Rows in one forward pass
    #[arg(long, value_parser = flag_values::rows, default_value_t = 8)]
    device_batch_size: usize,
    /// Measure as if weights were stored in f32, bf16 or int8, as chat can do
    #[arg(long, default_value_t = Dtype::F32)]
    weights: Dtype,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: &EvalCommand, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    match command {
        EvalCommand::Chat(args) => chat::run(args, base_dir, device, comm),
        EvalCommand::Core(args) => core::run(args, base_dir, device, comm),
        EvalCommand::Exam(args) => exam::run(args, base_dir, device, comm),
        EvalCommand::Bpb(args) => bpb(args, base_dir, device, comm),
    }
}

/// Returns a line of a table of scores.
fn row(name: &str, score: &Score) -> String {
    let [low, high] = score.interval().map(|share| 100.0 * share);
    let (percent, Score { right, total }) = (100.0 * score.share(), score);
    let name = escape::line(name);
    format!("{name:<34} {percent:6.1} %   ({low:5.1} to {high:5.1})   {right} of {total}")
}

fn took(started: Instant) -> String {
    format!("{:.1} s without loading the model", started.elapsed().as_secs_f64())
}

fn bpb(args: &BpbArgs, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let mut loaded = args.model.load(base_dir, &Device::Cpu)?;
    if comm.is_first() {
        args.model.tell_measured(&loaded);
    }
    if args.weights != Dtype::F32 {
        loaded.model = loaded.model.rounded(args.weights);
    }
    let loaded = loaded.to_device(device)?;
    let dir = args.data_dir.clone().unwrap_or_else(|| base_dir.join("base_data"));
    let shards = Shards::open(&dir, OnBadShard::Refuse)?;
    let byte_lengths = loaded.tokenizer.byte_lengths();
    let shape = [args.device_batch_size, loaded.model.config.sequence_len];
    let (mut values, started) = (serde_json::Map::new(), Instant::now());
    values.insert("model".into(), json!(loaded.folder.display().to_string()));
    for (name, split) in [("train", Split::Train), ("val", Split::Val)] {
        let mut loader = DataLoader::new(&shards, split, &loaded.tokenizer, shape, None, comm)?;
        let batches = args.eval_tokens.div_ceil(shape[0] * shape[1]).max(1);
        let batches = (0..batches).map(|_| loader.next_batch());
        let bpb = bits_per_byte(&loaded.model, batches, &byte_lengths, comm)?;
        if comm.is_first() && !args.json {
            println!("{name:<6} {bpb:.4} bits per byte");
        }
        values.insert(format!("{name}_bpb"), json!(bpb));
    }
    match comm.is_first() {
        true if args.json => crate::output::print_json(&values)?,
        true => println!("{}", took(started)),
        false => {}
    }
    Ok(())
}
