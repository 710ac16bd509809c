//! `nanochat tok eval`: measures how much text a token holds. More bytes per token mean a longer context and faster
//! training and answers; characters per token show the same for scripts of several bytes per character.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use nanochat::terminal::escape;
use nanochat::terminal::flag_values;
use nanochat::text::dataset::{DatasetError, OnBadShard, Shards, Split};
use nanochat_tokenizer::Tokenizer;

use super::{TokenizerSource, data_dir, languages, read_tokenizer};

/// Texts written for this comparison, one per domain.
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
    source: TokenizerSource,
    /// Other tokenizer.json files (or folders with one) to compare with
    #[arg(long, value_name = "FILE", num_args = 1..)]
    compare: Vec<PathBuf>,
    /// Folder of parquet shards for the rows train and val [default: base_data of the base directory, if
    /// it is there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Characters to read for each of train and val
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = 1_000_000)]
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
    let shards = data.map(|data| Shards::open(&data, OnBadShard::Refuse)).transpose()?;
    if let Some(shards) = &shards {
        rows.push(("train", sample(shards, Split::Train, args.max_chars)?));
        rows.push(("val", sample(shards, Split::Val, args.max_chars)?));
    }
    print_table(&tokenizers, &rows)?;
    if let Some(shards) = shards {
        println!();
        languages::print(&tokenizers, &[("val".into(), shards)], args.max_chars as u64)?;
    }
    Ok(())
}

/// The beginning of a split, up to about `max_chars` characters.
pub fn sample(shards: &Shards, split: Split, max_chars: usize) -> Result<Vec<String>, DatasetError> {
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

/// Returns the bytes and tokens of `texts`.
pub fn compression(tokenizer: &Tokenizer, texts: &[String]) -> (usize, usize) {
    let tokens = tokenizer.encode_batch(texts).iter().map(Vec::len).sum();
    (texts.iter().map(String::len).sum(), tokens)
}

/// Returns a label for a tokenizer: the name of its model folder, or of its file.
fn label(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name);
    let name = folder.filter(|_| stem == "tokenizer").unwrap_or(stem);
    escape::line(&name.to_string_lossy()).chars().take(20).collect()
}

/// Prints one row per text: for each tokenizer its tokens, bytes and characters per token, and for all but the first
/// how many more (or fewer) tokens they need than it.
fn print_table(tokenizers: &[(String, Tokenizer)], rows: &[(&str, Vec<String>)]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let heads: Vec<String> =
        tokenizers.iter().map(|(name, t)| format!("{name} ({})", t.vocab_size())).collect();
    write!(out, "{:<18}  | {:<23}", "", heads[0])?;
    heads[1..].iter().try_for_each(|head| write!(out, "  | {head:<32}"))?;
    write!(out, "\n{:<8}{:>10}  | {:>9} {:>6} {:>6}", "text", "bytes", "tokens", "B/tok", "ch/tok")?;
    for _ in 1..tokenizers.len() {
        write!(out, "  | {:>9} {:>6} {:>6} {:>8}", "tokens", "B/tok", "ch/tok", "vs ours")?;
    }
    writeln!(out)?;
    for (name, texts) in rows {
        let chars: usize = texts.iter().map(|text| text.chars().count()).sum();
        let measured: Vec<(usize, usize)> = tokenizers.iter().map(|(_, t)| compression(t, texts)).collect();
        write!(out, "{name:<8}{:>10}", measured[0].0)?;
        for (i, &(bytes, tokens)) in measured.iter().enumerate() {
            let per = |n: usize| n as f64 / tokens.max(1) as f64;
            write!(out, "  | {tokens:>9} {:>6.2} {:>6.2}", per(bytes), per(chars))?;
            if i > 0 {
                let more = 100.0 * (tokens as f64 / measured[0].1.max(1) as f64 - 1.0);
                write!(out, " {:>8}", format!("{more:+.1} %"))?;
            }
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
