//! `nanochat tok sizes`: compares vocabulary sizes by language. One training suffices: a smaller vocabulary is a prefix
//! of a larger one.

use std::path::Path;

use clap::Args;
use nanochat::terminal::flag_values;
use nanochat_tokenizer::{Tokenizer, TrainOptions};

use super::{Corpus, TrainingTexts, languages, train_on};

#[derive(Debug, Args)]
pub struct SizesArgs {
    /// Vocabulary sizes to compare
    #[arg(long, num_args = 1.., value_parser = flag_values::large::<usize>, default_values_t = [30_000, 40_000, 50_000, 65_536])]
    sizes: Vec<usize>,
    /// Stop reading after this many characters
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = TrainOptions::default().max_chars)]
    max_chars: usize,
    /// Read at most this many characters of each document
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = TrainOptions::default().max_document_chars)]
    doc_cap: usize,
    /// Characters of validation text to measure on, for each folder
    #[arg(long, value_parser = flag_values::large::<u64>, default_value_t = 2_000_000)]
    eval_chars: u64,
    #[command(flatten)]
    texts: TrainingTexts,
}

pub fn run(args: &SizesArgs, base_dir: &Path) -> anyhow::Result<()> {
    let corpora = args.texts.open(base_dir)?;
    let options = TrainOptions {
        vocab_size: args.sizes.iter().copied().max().unwrap_or_default(),
        max_chars: args.max_chars,
        max_document_chars: args.doc_cap,
        ..TrainOptions::default()
    };
    let (largest, _) = train_on(&corpora, &options)?;
    let mut sizes = args.sizes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let of_size = |size: &usize| Ok(("trained".to_string(), largest.with_vocab_size(*size)?));
    let mut tokenizers: Vec<(String, Tokenizer)> =
        sizes.iter().map(of_size).collect::<anyhow::Result<_>>()?;
    tokenizers.dedup_by_key(|(_, tokenizer)| tokenizer.vocab_size());
    let most = largest.vocab_size();
    if most < options.vocab_size {
        eprintln!(
            "warning: the text has pairs for {most} tokens only; larger vocabularies would be the same one"
        );
    }
    let corpora: Vec<_> = corpora.into_iter().map(|Corpus { name, shards, .. }| (name, shards)).collect();
    languages::print(&tokenizers, &corpora, args.eval_chars)?;
    Ok(())
}
