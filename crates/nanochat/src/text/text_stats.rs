//! Statistics of a corpus: documents, characters, bytes, languages, document lengths, and tokens.

use std::collections::BTreeMap;

use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;

use crate::text::dataset::{DatasetError, RowAt, Shards, Split};
use crate::text::language::detect;

/// The upper bounds (exclusive) of the classes of document length, in characters; one more class lies above.
pub const LENGTHS: [usize; 6] = [100, 300, 1_000, 3_000, 10_000, 30_000];

/// Totals over documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub documents: u64,
    pub chars: u64,
    pub bytes: u64,
    /// The number of tokens; 0 without a tokenizer.
    pub tokens: u64,
    /// The tokens that are no whole characters: bytes that no merge has joined.
    pub fallback: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextStats {
    pub all: Amount,
    pub languages: BTreeMap<&'static str, Amount>,
    /// The number of documents in each class of [`LENGTHS`].
    pub lengths: [u64; LENGTHS.len() + 1],
}

impl TextStats {
    /// Returns the statistics of one split, from up to about `max_chars` characters of it.
    pub fn of(
        shards: &Shards,
        split: Split,
        tokenizer: Option<&Tokenizer>,
        max_chars: u64,
    ) -> Result<TextStats, DatasetError> {
        let mut sum = TextStats::default();
        for chunk in shards.chunks(split, RowAt::default()) {
            let texts = chunk?.texts;
            let of_each: Vec<(&'static str, Amount)> = texts
                .par_iter()
                .flatten()
                .map(|text| (detect(text).code, measure(text, tokenizer)))
                .collect();
            for (language, amount) in of_each {
                sum.add(language, amount);
            }
            if sum.all.chars >= max_chars {
                break;
            }
        }
        Ok(sum)
    }

    /// Adds the statistics of another corpus.
    pub fn merge(&mut self, other: &TextStats) {
        self.all.add(&other.all);
        for (language, amount) in &other.languages {
            self.languages.entry(language).or_default().add(amount);
        }
        self.lengths.iter_mut().zip(other.lengths).for_each(|(mine, theirs)| *mine += theirs);
    }

    fn add(&mut self, language: &'static str, amount: Amount) {
        self.all.add(&amount);
        self.languages.entry(language).or_default().add(&amount);
        self.lengths[LENGTHS.partition_point(|end| *end <= amount.chars as usize)] += 1;
    }
}

impl Amount {
    fn add(&mut self, other: &Amount) {
        self.documents += other.documents;
        self.chars += other.chars;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
        self.fallback += other.fallback;
    }
}

fn measure(text: &str, tokenizer: Option<&Tokenizer>) -> Amount {
    let ids = tokenizer.map(|tokenizer| tokenizer.encode(text)).unwrap_or_default();
    let is_part = |id: &&u32| {
        let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(**id)).unwrap_or_default();
        std::str::from_utf8(bytes).is_err()
    };
    Amount {
        documents: 1,
        chars: text.chars().count() as u64,
        bytes: text.len() as u64,
        tokens: ids.len() as u64,
        fallback: ids.iter().filter(is_part).count() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;
    use crate::text::dataset::{OnBadShard, ShardWriter};

    #[test]
    fn sums_by_language_and_length() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data");
        let mut writer = ShardWriter::create(&dir, 1_000_000).unwrap();
        let (zh, en) = ("今天天气很好".repeat(50), "The weather is fine today. ".repeat(40));
        for text in [&zh, &zh, &en] {
            writer.push(Split::Train, text).unwrap();
        }
        writer.push(Split::Val, "x").unwrap();
        writer.finish().unwrap();
        let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
        let stats = TextStats::of(&shards, Split::Train, Some(&tokenizer()), u64::MAX).unwrap();
        let zh = Amount { documents: 2, chars: 600, bytes: 1_800, tokens: 1_800, fallback: 1_800 };
        assert_eq!(stats.languages["zh"], zh);
        assert_eq!((stats.languages["en"].tokens, stats.languages["en"].fallback), (1_080, 0));
        assert_eq!(stats.lengths, [0, 0, 2, 1, 0, 0, 0]);
        let mut twice = stats.clone();
        twice.merge(&stats);
        assert_eq!((twice.all.documents, twice.lengths[2], twice.languages["zh"].chars), (6, 4, 1_200));
    }
}
