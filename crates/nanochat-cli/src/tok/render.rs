//! `nanochat tok render`: prints conversations as the model sees them in finetuning, special tokens included.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use nanochat::conversation::{Examples, Rendered};
use nanochat::files::lines::BadLines;
use nanochat::terminal::escape;
use nanochat::terminal::flag_values;
use nanochat_tokenizer::{StreamDecoder, Tokenizer};

use super::TokenizerSource;
use crate::output;

#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Conversations, one per line or as one JSON list (also .gz, .zst): arrays of {role, content}, {"messages": …},
    /// ShareGPT, Alpaca or {"prompt", "completion"}
    file: PathBuf,
    #[command(flatten)]
    source: TokenizerSource,
    /// Number of conversations to print
    #[arg(long, value_parser = flag_values::amount, default_value_t = 3)]
    limit: usize,
    /// How to treat an unusable conversation: fail, or skip it and say how many were skipped
    #[arg(long, value_enum, default_value_t)]
    bad_lines: BadLines,
    /// Length at which a conversation is cut, in tokens
    #[arg(long, value_parser = flag_values::amount, default_value_t = 2_048)]
    max_len: usize,
    /// Put a bar between tokens (a character split between tokens stays whole)
    #[arg(long)]
    tokens: bool,
    /// Print token ids instead of text, a line for each conversation
    #[arg(long, conflicts_with_all = ["tokens", "color"])]
    ids: bool,
    /// Colour trained tokens green and others grey; without colour, trained text is put in ⟦ ⟧
    #[arg(long, value_enum, default_value_t)]
    color: Color,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Color {
    /// If standard output is a terminal and NO_COLOR is not set
    #[default]
    Auto,
    Always,
    Never,
}

pub fn run(args: &RenderArgs, base_dir: &Path) -> anyhow::Result<()> {
    let tokenizer = args.source.load(base_dir)?;
    let stdout = std::io::stdout().lock();
    let color = match args.color {
        Color::Auto => output::is_coloured(),
        Color::Always => true,
        Color::Never => false,
    };
    let style = Style { color, bar: if args.tokens { "|" } else { "" } };
    let mut out = BufWriter::new(stdout);
    let mut examples = Examples::open(&args.file, args.bad_lines)?;
    for example in examples.by_ref().take(args.limit) {
        let (place, example) = example?;
        let rendered = example.render(&tokenizer, args.max_len)?;
        if args.ids {
            let ids: Vec<String> = rendered.ids.iter().map(u32::to_string).collect();
            writeln!(out, "{}", ids.join(" "))?;
            continue;
        }
        let trained = rendered.mask.iter().filter(|trained| **trained).count();
        let cut = if rendered.cut { ", cut" } else { "" };
        let weights = weights(&rendered);
        writeln!(out, "{place}: {} tokens, {trained} trained{weights}{cut}", rendered.ids.len())?;
        writeln!(out, "{}\n", style.paint(&tokenizer, &rendered))?;
    }
    out.flush()?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    for sentence in examples.sentences() {
        eprintln!("{name}: {sentence}");
    }
    Ok(())
}

/// Returns the weights of the trained tokens, if they are not all 1.
fn weights(rendered: &Rendered) -> String {
    let trained = rendered.mask.iter().zip(&rendered.weights).filter(|(trained, _)| **trained);
    let mut weights: Vec<f32> = trained.map(|(_, &weight)| weight).collect();
    weights.sort_by(f32::total_cmp);
    match (weights.first(), weights.last()) {
        (Some(&least), Some(&most)) if least < most => format!(", weights {least} to {most}"),
        (Some(&weight), _) if weight != 1.0 => format!(", weight {weight}"),
        _ => String::new(),
    }
}

struct Style {
    color: bool,
    /// The separator between tokens.
    bar: &'static str,
}

impl Style {
    /// Returns the whole conversation as text, with runs of trained and untrained tokens marked.
    fn paint(&self, tokenizer: &Tokenizer, rendered: &Rendered) -> String {
        let tokens: Vec<(u32, bool)> =
            rendered.ids.iter().copied().zip(rendered.mask.iter().copied()).collect();
        let mut painted = String::new();
        for run in tokens.chunk_by(|a, b| a.1 == b.1) {
            let (start, end) = match (self.color, run[0].1) {
                (true, true) => ("\x1b[32m", "\x1b[0m"),
                (true, false) => ("\x1b[90m", "\x1b[0m"),
                (false, true) => ("⟦", "⟧"),
                (false, false) => ("", ""),
            };
            let mut stream = StreamDecoder::new(tokenizer);
            let mut parts: Vec<String> = run.iter().map(|(id, _)| stream.push(*id)).collect();
            parts.push(stream.finish());
            parts.retain(|part| !part.is_empty());
            painted += &format!("{start}{}{end}", escape::text(&parts.join(self.bar)));
        }
        painted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trained_runs_are_marked_and_characters_stay_whole() {
        let options = nanochat_tokenizer::TrainOptions { vocab_size: 265, ..Default::default() };
        let tokenizer = nanochat_tokenizer::train(["x"].iter(), &options).unwrap();
        let ids = [vec![256], tokenizer.encode("问\x1b"), tokenizer.encode("答!")].concat();
        let mask = [vec![false; 5], vec![true; 4]].concat();
        let rendered = Rendered { weights: vec![1.0; ids.len()], ids, mask, cut: false };
        let plain = Style { color: false, bar: "|" }.paint(&tokenizer, &rendered);
        assert_eq!(plain, "<|bos|>|问|\\u{1b}⟦答|!⟧");
        let coloured = Style { color: true, bar: "" }.paint(&tokenizer, &rendered);
        assert_eq!(coloured, "\x1b[90m<|bos|>问\\u{1b}\x1b[0m\x1b[32m答!\x1b[0m");
    }
}
