//! The quality and repetition rules of the Gopher paper (Rae et al. 2021, table A1). They count the words of
//! `words.rs`, so that they work for Chinese too; the rules about word length and stop words apply to English only.

use super::words::{Word, WordKind, hash, mix, units_per_word};

/// Why a document is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Blank,
    Damaged,
    OtherLanguage,
    MixedLanguage,
    TooShort,
    TooLong,
    WordLength,
    Hashes,
    Ellipses,
    Bullets,
    LineEllipses,
    FewLetters,
    StopWords,
    RepeatedParagraphs,
    RepeatedLines,
    FrequentPhrase,
    RepeatedPhrases,
    Duplicate,
    NearDuplicate,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Blank => "blank",
            Reason::Damaged => "damaged characters",
            Reason::OtherLanguage => "other language",
            Reason::MixedLanguage => "mixed languages",
            Reason::TooShort => "too short",
            Reason::TooLong => "too long",
            Reason::WordLength => "length of words",
            Reason::Hashes => "too many #",
            Reason::Ellipses => "too many ellipses",
            Reason::Bullets => "mostly bullets",
            Reason::LineEllipses => "lines cut by ellipses",
            Reason::FewLetters => "mostly symbols and digits",
            Reason::StopWords => "no sentences",
            Reason::RepeatedParagraphs => "repeated paragraphs",
            Reason::RepeatedLines => "repeated lines",
            Reason::FrequentPhrase => "one phrase over and over",
            Reason::RepeatedPhrases => "repeated phrases",
            Reason::Duplicate => "duplicate",
            Reason::NearDuplicate => "near duplicate",
        }
    }
}

/// The maximum share of U+FFFD, which stands for a lost character; a text with one in 200 was decoded wrongly.
const MAX_DAMAGED: f64 = 0.005;
const MAX_SYMBOL_RATIO: f64 = 0.1;
const MAX_BULLET_LINES: f64 = 0.9;
const MAX_ELLIPSIS_LINES: f64 = 0.3;
const MIN_LETTER_WORDS: f64 = 0.8;
const MEAN_WORD_LENGTH: std::ops::RangeInclusive<f64> = 3.0..=10.0;
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];
const MIN_STOP_WORDS: usize = 2;
/// The maximum shares of repeated lines or paragraphs, and of the characters in them.
const MAX_REPEATED: [f64; 2] = [0.3, 0.2];
/// For phrases of n words, the maximum share of the characters that the most frequent one covers.
const TOP_PHRASES: [(usize, f64); 3] = [(2, 0.20), (3, 0.18), (4, 0.16)];
/// For phrases of n words, the maximum share of the characters in repeated ones.
const REPEATED_PHRASES: [(usize, f64); 6] =
    [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)];

/// The minimum and maximum number of words of a document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub min_words: usize,
    pub max_words: usize,
}

/// Working memory, reused for every document.
#[derive(Default)]
pub struct Scratch {
    table: Table,
    grams: Vec<u64>,
    lens: Vec<u32>,
}

pub fn damaged(text: &str) -> bool {
    let lost = text.matches('\u{fffd}').count();
    lost > 0 && lost as f64 > MAX_DAMAGED * text.chars().count() as f64
}

/// Returns the first rule that a document breaks, if any. `words` are the words of `text`.
pub fn check(
    text: &str,
    words: &[Word],
    language: &str,
    limits: Limits,
    scratch: &mut Scratch,
) -> Option<Reason> {
    quality(text, words, language, limits).or_else(|| repetition(text, words, language, scratch))
}

fn quality(text: &str, words: &[Word], language: &str, limits: Limits) -> Option<Reason> {
    let total = words.len() as f64;
    let proper = words.iter().filter(|word| word.kind != WordKind::Symbols);
    let (n, chars) = proper.fold((0usize, 0u64), |(n, chars), word| (n + 1, chars + u64::from(word.chars)));
    let count = |pattern: &str| text.matches(pattern).count();
    let lines = text.lines().count() as f64;
    let share_of_lines =
        |test: &dyn Fn(&str) -> bool| text.lines().filter(|line| test(line)).count() as f64 / lines;
    let english = language == "en";
    let too = |is: bool, reason: Reason| is.then_some(reason);
    too(n < limits.min_words, Reason::TooShort)
        .or_else(|| too(n > limits.max_words, Reason::TooLong))
        .or_else(|| {
            too(english && !MEAN_WORD_LENGTH.contains(&(chars as f64 / n as f64)), Reason::WordLength)
        })
        .or_else(|| too(count("#") as f64 / total > MAX_SYMBOL_RATIO, Reason::Hashes))
        .or_else(|| too((count("...") + count("…")) as f64 / total > MAX_SYMBOL_RATIO, Reason::Ellipses))
        .or_else(|| {
            let bullet = |line: &str| line.trim_start().starts_with(['•', '-']);
            too(share_of_lines(&bullet) > MAX_BULLET_LINES, Reason::Bullets)
        })
        .or_else(|| {
            let cut = |line: &str| line.trim_end().ends_with("...") || line.trim_end().ends_with('…');
            too(share_of_lines(&cut) > MAX_ELLIPSIS_LINES, Reason::LineEllipses)
        })
        .or_else(|| {
            let letters =
                words.iter().filter(|word| matches!(word.kind, WordKind::Letters | WordKind::Han)).count();
            too((letters as f64) < MIN_LETTER_WORDS * total, Reason::FewLetters)
        })
        .or_else(|| too(english && stop_words(words) < MIN_STOP_WORDS, Reason::StopWords))
}

/// Returns how many of the stop words occur.
fn stop_words(words: &[Word]) -> usize {
    STOP_WORDS
        .iter()
        .map(|word| hash(word.as_bytes()))
        .filter(|h| words.iter().any(|word| word.hash == *h))
        .count()
}

fn repetition(text: &str, words: &[Word], language: &str, scratch: &mut Scratch) -> Option<Reason> {
    let total = text.chars().count() as f64;
    let parts = |separator: &str, scratch: &mut Scratch| {
        let parts =
            || text.split(separator).map(|part| part.trim_start_matches('\n')).filter(|p| !p.is_empty());
        let (n, repeated, chars) = repeated(parts, &mut scratch.table);
        repeated as f64 > MAX_REPEATED[0] * n as f64 || chars as f64 > MAX_REPEATED[1] * total
    };
    if parts("\n\n", scratch) {
        return Some(Reason::RepeatedParagraphs);
    }
    if parts("\n", scratch) {
        return Some(Reason::RepeatedLines);
    }
    let Scratch { table, grams, lens } = scratch;
    grams.clear();
    grams.extend(words.iter().map(|word| word.hash));
    lens.clear();
    lens.extend(words.iter().map(|word| word.chars));
    let per_word = units_per_word(language);
    for n in 2..=(10 * per_word).min(words.len()) {
        // The phrase of n units at i is the phrase of n − 1 units followed by the next unit.
        for i in 0..=words.len() - n {
            grams[i] = mix(grams[i].rotate_left(5) ^ words[i + n - 1].hash);
            lens[i] += words[i + n - 1].chars;
        }
        let (grams, lens) = (&grams[..=words.len() - n], &lens[..=words.len() - n]);
        if let Some((_, most)) = TOP_PHRASES.iter().find(|(words, _)| words * per_word == n)
            && f64::from(table.most_frequent(grams, lens, if per_word == 1 { n as u32 - 1 } else { 0 }))
                > most * total
        {
            return Some(Reason::FrequentPhrase);
        }
        if let Some((_, most)) = REPEATED_PHRASES.iter().find(|(words, _)| words * per_word == n)
            && f64::from(table.repeated(grams, lens, n)) > most * total
        {
            return Some(Reason::RepeatedPhrases);
        }
    }
    None
}

/// Returns the number of parts, how many of them occurred before, and the characters of these.
fn repeated<'t, I: Iterator<Item = &'t str>>(
    parts: impl Fn() -> I,
    table: &mut Table,
) -> (usize, usize, usize) {
    table.clear(parts().count());
    let (mut n, mut again, mut chars) = (0, 0, 0);
    for part in parts() {
        n += 1;
        if table.add(hash(part.as_bytes())) > 1 {
            (again, chars) = (again + 1, chars + part.chars().count());
        }
    }
    (n, again, chars)
}

/// A hash table of counts with open addressing; a document's phrases fit into the CPU cache.
#[derive(Default)]
struct Table {
    slots: Vec<(u64, u32)>,
}

impl Table {
    /// Empties the table and makes room for `n` keys at a load of at most one half.
    fn clear(&mut self, n: usize) {
        self.slots.clear();
        self.slots.resize((2 * n).next_power_of_two().max(2), (0, 0));
    }

    /// Adds `key` and returns how often it has been added, including this time.
    fn add(&mut self, key: u64) -> u32 {
        let mask = self.slots.len() - 1;
        let mut at = key as usize & mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.1 == 0 || slot.0 == key {
                *slot = (key, slot.1 + 1);
                return slot.1;
            }
            at = (at + 1) & mask;
        }
    }

    /// Returns the characters covered by the most frequent phrase, including the spaces between its words.
    fn most_frequent(&mut self, grams: &[u64], lens: &[u32], spaces: u32) -> u32 {
        self.clear(grams.len());
        let mut best = (0, 0);
        for (gram, chars) in grams.iter().zip(lens) {
            let count = self.add(*gram);
            if count > best.0 {
                best = (count, count * (chars + spaces));
            }
        }
        if best.0 > 1 { best.1 } else { 0 }
    }

    /// Returns the characters in phrases that occurred before. After a repeated phrase, the search continues behind it.
    fn repeated(&mut self, grams: &[u64], lens: &[u32], n: usize) -> u32 {
        self.clear(grams.len());
        let (mut at, mut chars) = (0, 0);
        while at < grams.len() {
            if self.add(grams[at]) > 1 {
                chars += lens[at];
                at += n;
            } else {
                at += 1;
            }
        }
        chars
    }
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Rng;

    use super::super::words::split;
    use super::*;

    fn reason(text: &str, language: &str) -> Option<Reason> {
        let mut words = Vec::new();
        split(text, &mut words);
        let limits = Limits { min_words: 20, max_words: 2_000 };
        check(text, &words, language, limits, &mut Scratch::default())
    }

    /// Returns sentences of twelve words, ten of which are random.
    fn prose(sentences: usize) -> String {
        let mut rng = Rng::new(&[sentences as u64]);
        let mut word =
            || (0..4 + rng.below(4)).map(|_| *rng.choose(&['a', 'e', 'i', 'n', 's', 't', 'r'])).collect();
        let sentence = |_| {
            let words: [String; 10] = std::array::from_fn(|_| word());
            format!("{}, the {} of {}. ", words[..4].join(" "), words[4], words[5..].join(" "))
        };
        (0..sentences).map(sentence).collect()
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        assert_eq!(reason(&prose(4), "en"), None);
        for (expected, text) in [
            (Reason::TooShort, "The cat and the dog.".to_string()),
            (Reason::TooLong, prose(200)),
            (Reason::WordLength, "a b c d e f g ".repeat(5)),
            (Reason::Hashes, format!("{} {}", prose(4), "# ".repeat(20))),
            (Reason::Ellipses, format!("{} {}", prose(4), "… ".repeat(20))),
            (Reason::Bullets, format!("- {}", prose(12).trim().replace(". ", "\n- "))),
            (Reason::FewLetters, format!("{}{}", prose(2), "1984 2001 ".repeat(20))),
            (
                Reason::StopWords,
                "Lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod ".repeat(3),
            ),
            (Reason::RepeatedLines, format!("{}\n", prose(1)).repeat(5)),
            (Reason::RepeatedParagraphs, format!("{}\n\n", prose(1)).repeat(5)),
            (Reason::RepeatedPhrases, prose(12).repeat(2)),
            (Reason::FrequentPhrase, format!("{} {}", prose(2), "and over again ".repeat(30))),
        ] {
            assert_eq!(reason(&text, "en"), Some(expected), "{text}");
        }
    }

    #[test]
    fn chinese_has_no_words_or_stop_words_to_measure() {
        let text = "春天来了，院子里的桃花开得正好。老人坐在树下，给孩子们讲很久以前的故事。";
        assert_eq!(reason(text, "zh"), None);
        assert_eq!(reason(&text.repeat(4), "zh"), Some(Reason::FrequentPhrase));
    }

    #[test]
    fn phrases_are_counted_as_the_definition_says() {
        let (grams, lens) = ([1, 2, 3, 1, 2, 3, 9, 1], [4, 5, 6, 4, 5, 6, 7, 4]);
        let mut table = Table::default();
        assert_eq!(table.most_frequent(&grams, &lens, 1), 15);
        // 1 is repeated at 3, so 3 and 4 are skipped; 3 is repeated at 5, so the rest is skipped.
        assert_eq!(table.repeated(&grams, &lens, 2), 4 + 6 + 4);
        assert_eq!(table.repeated(&grams, &lens, 3), 4 + 4);
    }
}
