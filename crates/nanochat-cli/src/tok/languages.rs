//! Measures tokenizers by language: characters and bytes per token, tokens that are only part of a character, and how
//! many of the common Chinese characters are single tokens.

use std::cmp::Reverse;
use std::collections::HashMap;

use nanochat::text::dataset::{DatasetError, Shards, Split};
use nanochat::text::language::is_han;
use nanochat::text::text_stats::TextStats;
use nanochat_tokenizer::Tokenizer;

/// The frequency ranks up to which Chinese characters are counted: the first 500 make up three quarters of modern text,
/// 3,500 more than 99 %.
const HANZI: [usize; 4] = [500, 1_000, 2_000, 3_500];
/// Languages with less than this share of the text are left out of the table.
const LEAST_SHARE: f64 = 0.01;

/// Prints a row for each tokenizer and language of the validation text of `corpora`, up to `max_chars` each.
pub fn print(
    tokenizers: &[(String, Tokenizer)],
    corpora: &[(String, Shards)],
    max_chars: u64,
) -> Result<(), DatasetError> {
    println!(
        "{:<12}{:<20}{:>9}{:>9}{:>9}{:>11}",
        "language", "tokenizer", "tokens", "ch/tok", "B/tok", "fallback"
    );
    for (name, shards) in corpora {
        let mut rows: Vec<(u64, &str, String)> = Vec::new();
        for (label, tokenizer) in tokenizers {
            let stats = TextStats::of(shards, Split::Val, Some(tokenizer), max_chars)?;
            for (language, amount) in &stats.languages {
                let per = |n: u64| n as f64 / amount.tokens.max(1) as f64;
                if amount.chars as f64 >= LEAST_SHARE * stats.all.chars as f64 {
                    let row = format!(
                        "{:<12}{:<20}{:>9}{:>9.3}{:>9.3}{:>9.2} %",
                        format!("{name}: {language}"),
                        format!("{label} ({})", tokenizer.vocab_size()),
                        amount.tokens,
                        per(amount.chars),
                        per(amount.bytes),
                        100.0 * per(amount.fallback),
                    );
                    rows.push((amount.chars, language, row));
                }
            }
        }
        rows.sort_by_key(|(chars, language, _)| (Reverse(*chars), *language));
        rows.iter().for_each(|(.., row)| println!("{row}"));
    }
    print_hanzi(tokenizers, corpora, max_chars)
}

/// Prints the share of the most frequent Chinese characters of the training text that are single tokens.
fn print_hanzi(
    tokenizers: &[(String, Tokenizer)],
    corpora: &[(String, Shards)],
    max_chars: u64,
) -> Result<(), DatasetError> {
    let hanzi = by_frequency(corpora, max_chars)?;
    if hanzi.len() < HANZI[0] {
        return Ok(());
    }
    let ranks = ranks(hanzi.len());
    print!("\n{:<32}", "common hanzi that are one token");
    ranks.iter().for_each(|n| print!("{:>12}", format!("first {n}")));
    println!();
    for (label, tokenizer) in tokenizers {
        print!("{:<32}", format!("{label} ({})", tokenizer.vocab_size()));
        for &n in &ranks {
            let common = &hanzi[..n];
            let whole = common.iter().filter(|c| tokenizer.encode(&c.to_string()).len() == 1).count();
            print!("{:>10.1} %", 100.0 * whole as f64 / common.len() as f64);
        }
        println!();
    }
    Ok(())
}

/// Returns the columns for a text of that many different characters, without columns that would repeat the one before.
fn ranks(characters: usize) -> Vec<usize> {
    let mut ranks = HANZI.map(|n| n.min(characters)).to_vec();
    ranks.dedup();
    ranks
}

fn by_frequency(corpora: &[(String, Shards)], max_chars: u64) -> Result<Vec<char>, DatasetError> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (_, shards) in corpora {
        let mut read = 0;
        for text in shards.texts(Split::Train) {
            for c in text?.chars() {
                read += 1;
                if is_han(c) {
                    *counts.entry(c).or_default() += 1;
                }
            }
            if read >= max_chars {
                break;
            }
        }
    }
    let mut hanzi: Vec<(Reverse<u64>, char)> = counts.into_iter().map(|(c, n)| (Reverse(n), c)).collect();
    hanzi.sort();
    Ok(hanzi.into_iter().map(|(_, c)| c).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_few_characters_has_few_columns() {
        assert_eq!(ranks(9_000), HANZI);
        assert_eq!(ranks(620), [500, 620]);
    }
}
