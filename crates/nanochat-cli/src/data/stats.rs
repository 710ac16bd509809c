//! `nanochat data stats`: the contents of corpora, and the number of epochs that a run would make over them.

use std::path::{Path, PathBuf};

use nanochat::model::config::GptConfig;
use nanochat::terminal::flag_values;
use nanochat::text::dataset::{OnBadShard, Shards, Split};
use nanochat::text::text_stats::{Amount, LENGTHS, TextStats};
use nanochat_tokenizer::Tokenizer;

use crate::tok::{tokenizer_at, tokenizer_path};

#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Folders of shards [default: base_data in the base directory]
    #[arg(value_name = "FOLDER")]
    dirs: Vec<PathBuf>,
    /// The tokenizer used to count tokens [default: that of the base directory, if it is there]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Also show the epochs for training a model of this depth
    #[arg(long, value_parser = flag_values::amount)]
    depth: Option<usize>,
    /// Tokens per parameter of that model: 20 for English, 22 mixed, 25 Chinese
    #[arg(long, value_parser = flag_values::positive, default_value_t = 20.0)]
    target_param_data_ratio: f64,
    /// Also show the epochs for training on this many tokens
    #[arg(long, value_parser = flag_values::large::<u64>)]
    tokens: Option<u64>,
    /// Read at most about this many characters of each folder
    #[arg(long, value_parser = flag_values::whole::<u64, 0, { u64::MAX }>, default_value_t = u64::MAX, hide_default_value = true)]
    max_chars: u64,
}

pub fn run(args: &StatsArgs, base_dir: &Path) -> anyhow::Result<()> {
    let given = args.tokenizer.is_some() || tokenizer_path(base_dir).exists();
    let tokenizer = given.then(|| tokenizer_at(args.tokenizer.as_deref(), base_dir)).transpose()?;
    let dirs = if args.dirs.is_empty() { vec![base_dir.join("base_data")] } else { args.dirs.clone() };
    let mut sum = TextStats::default();
    for dir in &dirs {
        let shards = Shards::open(dir, OnBadShard::Refuse)?;
        sum.merge(&TextStats::of(&shards, Split::Train, tokenizer.as_ref(), args.max_chars)?);
    }
    print_amounts(&sum);
    print_lengths(&sum);
    match &tokenizer {
        Some(tokenizer) => print_epochs(args, &sum, tokenizer)?,
        None => {
            eprintln!("tokens are counted when there is a tokenizer: `nanochat tok train`, or --tokenizer")
        }
    }
    Ok(())
}

fn print_amounts(stats: &TextStats) {
    println!(
        "{:<10}{:>12}{:>16}{:>16}{:>15}{:>9}{:>9}",
        "training", "documents", "characters", "bytes", "tokens", "ch/tok", "B/tok"
    );
    let mut rows: Vec<(&str, Amount)> =
        stats.languages.iter().map(|(name, amount)| (*name, *amount)).collect();
    rows.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.chars));
    rows.push(("all", stats.all));
    for (name, Amount { documents, chars, bytes, tokens, .. }) in rows {
        let per = |n: u64| if tokens > 0 { format!("{:.3}", n as f64 / tokens as f64) } else { "-".into() };
        println!(
            "{name:<10}{documents:>12}{chars:>16}{bytes:>16}{tokens:>15}{:>9}{:>9}",
            per(chars),
            per(bytes)
        );
    }
}

fn print_lengths(stats: &TextStats) {
    println!("\nlength in characters");
    let most = stats.lengths.iter().copied().max().unwrap_or(0).max(1);
    for (i, n) in stats.lengths.iter().enumerate() {
        let from = if i == 0 { 0 } else { LENGTHS[i - 1] };
        let class = LENGTHS.get(i).map_or(format!("{from} –"), |end| format!("{from} – {}", end - 1));
        println!("{class:<16}{n:>12}  {}", "█".repeat((40 * n / most) as usize));
    }
}

fn print_epochs(args: &StatsArgs, stats: &TextStats, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let available = (stats.all.tokens + stats.all.documents) as f64; // plus one <|bos|> per document
    let line = |what: String, tokens: f64| {
        println!(
            "\n{what} takes {tokens:.3e} tokens: {:.2} epochs of these {available:.3e}",
            tokens / available
        );
    };
    if let Some(depth) = args.depth {
        let config = GptConfig::from_depth(depth, tokenizer.vocab_size(), 2_048)?;
        let params = config.params();
        line(
            format!("d{depth} ({:.1}M parameters)", params as f64 / 1e6),
            params as f64 * args.target_param_data_ratio,
        );
    }
    if let Some(tokens) = args.tokens {
        line("the run".into(), tokens as f64);
    }
    Ok(())
}
