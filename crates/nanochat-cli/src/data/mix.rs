//! `nanochat data mix`: combines several folders of shards into one, by weight.

use std::path::{Path, PathBuf};

use anyhow::bail;
use nanochat::terminal::flag_values;
use nanochat::text::corpus_mix::{Measure, MixOptions, MixSource, Unit, mix};
use nanochat::text::dataset::CHARS_PER_SHARD;

use super::{print_written, progress_bar};
use crate::tok::tokenizer_at;

#[derive(Debug, clap::Args)]
pub struct MixArgs {
    /// Folders of shards with their weights, such as zh=0.7:corpus/zh en=0.3:corpus/en
    #[arg(required = true, value_name = "NAME=WEIGHT:FOLDER")]
    sources: Vec<MixSource>,
    /// The new folder of shards [default: base_data in the base directory]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Unit of the weights
    #[arg(long, value_enum, default_value_t)]
    by: Unit,
    /// The tokenizer that counts with --by tokens [default: that of the base directory]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Characters (or tokens) to write; a source that is too short is repeated [default: as much as needs no
    /// repetition]
    #[arg(long, value_name = "N", value_parser = flag_values::large::<u64>)]
    total: Option<u64>,
    /// Seed of the order of the documents
    #[arg(long, value_parser = flag_values::seed, default_value_t = 42)]
    seed: u64,
    /// Characters in a shard
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = CHARS_PER_SHARD)]
    chars_per_shard: usize,
}

pub fn run(args: &MixArgs, base_dir: &Path) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| base_dir.join("base_data"));
    if args.total == Some(0) {
        bail!("--total 0 leaves nothing to write");
    }
    let tokenizer = match args.by {
        Unit::Chars => None,
        Unit::Tokens => Some(tokenizer_at(args.tokenizer.as_deref(), base_dir)?),
    };
    let measure = tokenizer.as_ref().map_or(Measure::Chars, Measure::Tokens);
    let unit = if tokenizer.is_some() { "tokens" } else { "characters" };
    let options =
        MixOptions { seed: args.seed, total: args.total, measure, chars_per_shard: args.chars_per_shard };
    let progress = progress_bar("{wide_bar} {pos}/{len} {eta} left")?;
    let (taken, written) = mix(&args.sources, &out, &options, &progress)?;
    progress.finish_and_clear();
    let all: u64 = taken.iter().map(|source| source.amount).sum();
    for source in &taken {
        println!(
            "{:<12}{:>6.2} % {:>10} documents {:>14} {unit}  {:.2} epochs of {}",
            source.name,
            100.0 * source.amount as f64 / all.max(1) as f64,
            source.documents,
            source.amount,
            source.epochs(),
            source.available
        );
    }
    print_written(&written, &out);
    Ok(())
}
