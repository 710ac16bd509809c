//! `nanochat tok show`: prints the vocabulary in readable form. tokenizer.json writes bytes as substitute characters,
//! so that its Chinese looks like `ä¸Ń`; here a token is shown as its text.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use nanochat_tokenizer::Tokenizer;

use super::TokenizerSource;

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    source: TokenizerSource,
    /// Only tokens with Chinese characters
    #[arg(long)]
    zh: bool,
    /// Only tokens that contain this text
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
    /// Only ids from the first up to, not including, the second
    #[arg(long, value_name = "FIRST..END", value_parser = parse_range)]
    range: Option<(u32, u32)>,
    /// Only the count at the end
    #[arg(long)]
    summary: bool,
}

fn parse_range(text: &str) -> Result<(u32, u32), String> {
    let parts =
        text.split_once("..").and_then(|(first, end)| Some((number(first, 0)?, number(end, u32::MAX)?)));
    parts.ok_or_else(|| format!("{text:?} is not a range such as 256..300"))
}

fn number(text: &str, open: u32) -> Option<u32> {
    if text.is_empty() { Some(open) } else { text.parse().ok() }
}

pub fn run(args: &ShowArgs, base_dir: &Path) -> anyhow::Result<()> {
    let tokenizer = args.source.load(base_dir)?;
    let size = tokenizer.vocab_size() as u32;
    let (first, end) = args.range.unwrap_or((0, size));
    if first >= size {
        bail!("ids go from 0 to {}; the range begins at {first}", size.saturating_sub(1));
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let shown = (first..end.min(size)).filter(|id| !args.summary && args.wants(&tokenizer, *id));
    for id in shown {
        let bytes = tokenizer.token_bytes(id).context("a token that exists")?;
        writeln!(out, "{id:>7} {:>3}  {}", bytes.len(), readable(bytes))?;
    }
    write!(out, "{}", Summary::of(&tokenizer))?;
    out.flush()?;
    Ok(())
}

impl ShowArgs {
    fn wants(&self, tokenizer: &Tokenizer, id: u32) -> bool {
        let Some(bytes) = tokenizer.token_bytes(id) else { return false };
        let text = String::from_utf8_lossy(bytes);
        (!self.zh || text.contains(is_hanzi))
            && self.contains.as_ref().is_none_or(|part| text.contains(part.as_str()))
    }
}

/// Chinese characters of the basic block and its extensions.
fn is_hanzi(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

/// Returns the text in quotes, with white space and control characters escaped; bytes that are no whole character are
/// shown in hexadecimal, with the characters that they may begin.
fn readable(bytes: &[u8]) -> String {
    let mut shown = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\'' { shown.push(c) } else { shown.extend(c.escape_debug()) }
        }
        let hex: Vec<String> = chunk.invalid().iter().map(|byte| format!("{byte:02X}")).collect();
        if !hex.is_empty() {
            let _ = write!(shown, "‹{}›", hex.join(" "));
        }
    }
    // A chunk ends at every invalid byte; adjacent ones share one pair of brackets.
    shown = shown.replace("›‹", " ");
    shown.push('"');
    if let Some((from, to)) = begun_characters(bytes) {
        let _ = write!(shown, "  begins one of {from}…{to}");
    } else if bytes.first().is_some_and(|byte| (0x80..0xC0).contains(byte)) {
        shown.push_str("  ends a character");
    }
    shown
}

/// Returns the first and last character that the incomplete end of `bytes` can become, if only one byte is missing:
/// with two the range would be a whole script.
fn begun_characters(bytes: &[u8]) -> Option<(char, char)> {
    let tail = bytes.utf8_chunks().last()?.invalid();
    let completed = |last: u8| {
        let character = [tail, &[last]].concat();
        std::str::from_utf8(&character).ok()?.chars().next()
    };
    Some((completed(0x80)?, completed(0xBF)?))
}

/// The kinds of tokens in a vocabulary.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    special: usize,
    bytes: usize,
    hanzi: usize,
    hanzi_several: usize,
    distinct_hanzi: usize,
    cut: usize,
    other: usize,
}

impl Summary {
    fn of(tokenizer: &Tokenizer) -> Summary {
        let mut summary = Summary::default();
        let mut seen = std::collections::HashSet::new();
        for id in 0..tokenizer.vocab_size() as u32 {
            let Some(bytes) = tokenizer.token_bytes(id) else { continue };
            match std::str::from_utf8(bytes) {
                _ if tokenizer.is_special(id) => summary.special += 1,
                _ if bytes.len() == 1 => summary.bytes += 1,
                Err(_) => summary.cut += 1,
                Ok(text) if text.contains(is_hanzi) => {
                    summary.hanzi += 1;
                    summary.hanzi_several += usize::from(text.chars().filter(|c| is_hanzi(*c)).count() > 1);
                    seen.extend(text.chars().filter(|c| is_hanzi(*c)));
                }
                Ok(_) => summary.other += 1,
            }
        }
        summary.distinct_hanzi = seen.len();
        summary
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let total = self.special + self.bytes + self.hanzi + self.cut + self.other;
        writeln!(f, "{total} tokens:")?;
        writeln!(f, "{:>7} single bytes", self.bytes)?;
        writeln!(
            f,
            "{:>7} with Chinese characters ({} of them with several; {} different characters)",
            self.hanzi, self.hanzi_several, self.distinct_hanzi
        )?;
        writeln!(f, "{:>7} with a cut character: its bytes are split between tokens", self.cut)?;
        writeln!(f, "{:>7} other text", self.other)?;
        writeln!(f, "{:>7} special", self.special)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_as_text_and_cut_characters_as_hex() {
        assert_eq!(readable(" the".as_bytes()), "\" the\"");
        assert_eq!(readable("人工\n".as_bytes()), "\"人工\\n\"");
        assert_eq!(readable(b"\xE4\xBA"), "\"‹E4 BA›\"  begins one of 亀…亿");
        assert_eq!(readable("，人".as_bytes().split_last().unwrap().1), "\"，‹E4 BA›\"  begins one of 亀…亿");
        assert_eq!(readable(b"\x99\xA8"), "\"‹99 A8›\"  ends a character");
        assert_eq!(readable(b"\xBA"), "\"‹BA›\"  ends a character");
        assert_eq!(readable(b"\xE4"), "\"‹E4›\"");
        assert_eq!(readable(b"it's \"\0"), "\"it's \\\"\\0\"");
    }

    #[test]
    fn ranges() {
        assert_eq!(parse_range("256..300"), Ok((256, 300)));
        assert_eq!(parse_range("..300"), Ok((0, 300)));
        assert!(parse_range("256").is_err() && parse_range("a..b").is_err());
    }

    #[test]
    fn the_summary_counts_every_token_once() {
        let options = nanochat_tokenizer::TrainOptions { vocab_size: 300, ..Default::default() };
        let text = "人工智能 人工智能 the then".repeat(3);
        let tokenizer = nanochat_tokenizer::train([text].iter(), &options).unwrap();
        let summary = Summary::of(&tokenizer);
        assert_eq!((summary.bytes, summary.special, summary.distinct_hanzi), (256, 9, 4));
        let total = summary.special + summary.bytes + summary.hanzi + summary.cut + summary.other;
        assert_eq!(total, tokenizer.vocab_size());
        assert!(summary.hanzi_several > 0 && summary.cut > 0);
    }
}
