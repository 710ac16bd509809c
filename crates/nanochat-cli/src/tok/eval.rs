//! `nanochat tok eval`: how much text a token holds. More bytes per token: longer context, faster training
//! and answers; characters per token tell the same for scripts of several bytes a character.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use nanochat::dataset::{DataError, OnBadShard, Shards, Split};
use nanochat_tokenizer::Tokenizer;

use super::{Source, data_dir, read_tokenizer};

/// Texts written for this comparison, one a domain.
const DOMAINS: [(&str, &str); 6] = [
    ("news", include_str!("samples/news.txt")),
    ("code", include_str!("samples/code.txt")),
    ("math", include_str!("samples/math.txt")),
    ("science", include_str!("samples/science.txt")),
    ("Korean", include_str!("samples/korean.txt")),
    ("Chinese", include_str!("samples/chinese.txt")),
];

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    source: Source,
    /// Other tokenizer.json files (or folders with one) to measure beside it
    #[arg(long, value_name = "FILE", num_args = 1..)]
    compare: Vec<PathBuf>,
    /// Folder of parquet shards for the rows train and val [default: base_data of the base directory, if
    /// it is there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Characters to read for each of train and val
    #[arg(long, default_value_t = 1_000_000)]
    max_chars: usize,
}

pub fn run(args: &EvalArgs, base_dir: &Path) -> anyhow::Result<()> {
    let mut tokenizers = vec![("ours".to_string(), args.source.load(base_dir)?)];
    for path in &args.compare {
        tokenizers.push((label(path), read_tokenizer(path)?));
    }
    let mut rows: Vec<(&str, Vec<String>)> =
        DOMAINS.map(|(name, text)| (name, vec![text.to_string()])).to_vec();
    let data = args.data.clone().or_else(|| Some(data_dir(base_dir)).filter(|dir| dir.exists()));
    if let Some(data) = data {
        let shards = Shards::open(&data, OnBadShard::Refuse)?;
        rows.push(("train", sample(&shards, Split::Train, args.max_chars)?));
        rows.push(("val", sample(&shards, Split::Val, args.max_chars)?));
    }
    print_table(&tokenizers, &rows)?;
    Ok(())
}

/// The beginning of a split, up to about `max_chars` characters.
pub fn sample(shards: &Shards, split: Split, max_chars: usize) -> Result<Vec<String>, DataError> {
    let (mut texts, mut chars) = (Vec::new(), 0);
    for text in shards.texts(split) {
        let text = text?;
        chars += text.chars().count();
        texts.push(text);
        if chars >= max_chars {
            break;
        }
    }
    Ok(texts)
}

/// Bytes and tokens of `texts`.
pub fn compression(tokenizer: &Tokenizer, texts: &[String]) -> (usize, usize) {
    let tokens = tokenizer.encode_batch(texts).iter().map(Vec::len).sum();
    (texts.iter().map(String::len).sum(), tokens)
}

/// A model folder goes by its name, a lone file by its own.
fn label(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name);
    let name = folder.filter(|_| stem == "tokenizer").unwrap_or(stem);
    name.to_string_lossy().chars().take(20).collect()
}

/// One row a text, for each tokenizer its tokens, bytes and characters per token, and for the others how
/// many more (or fewer) tokens they need than the first.
fn print_table(tokenizers: &[(String, Tokenizer)], rows: &[(&str, Vec<String>)]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{:<8} {:>10}", "", "")?;
    for (name, tokenizer) in tokenizers {
        write!(out, "  | {:<32}", format!("{name} ({})", tokenizer.vocab_size()))?;
    }
    write!(out, "\n{:<8} {:>10}", "text", "bytes")?;
    for _ in tokenizers {
        write!(out, "  | {:>9} {:>6} {:>6} {:>8}", "tokens", "B/tok", "ch/tok", "vs ours")?;
    }
    writeln!(out)?;
    for (name, texts) in rows {
        let chars: usize = texts.iter().map(|text| text.chars().count()).sum();
        let mut ours = None;
        for (i, (_, tokenizer)) in tokenizers.iter().enumerate() {
            let (bytes, tokens) = compression(tokenizer, texts);
            if i == 0 {
                write!(out, "{name:<8} {bytes:>10}")?;
            }
            let per = |n: usize| n as f64 / tokens.max(1) as f64;
            let more = match ours {
                Some(ours) => format!("{:+.1} %", 100.0 * (tokens as f64 / ours - 1.0)),
                None => String::new(),
            };
            ours = ours.or(Some(tokens.max(1) as f64));
            write!(out, "  | {tokens:>9} {:>6.2} {:>6.2} {more:>8}", per(bytes), per(chars))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_domain_has_a_few_hundred_characters_of_its_script() {
        for (name, text) in DOMAINS {
            assert!((200..2_000).contains(&text.chars().count()), "{name}");
            let wide =
                text.chars().filter(|c| c.len_utf8() == 3).count() as f64 / text.chars().count() as f64;
            assert_eq!(wide > 0.5, ["Korean", "Chinese"].contains(&name), "{name} {wide}");
        }
    }

    #[test]
    fn a_model_folder_gives_its_name() {
        assert_eq!(label(Path::new("models/gpt2/tokenizer.json")), "gpt2");
        assert_eq!(label(Path::new("models/gpt2")), "gpt2");
        assert_eq!(label(Path::new("cl100k.json")), "cl100k");
    }
}
