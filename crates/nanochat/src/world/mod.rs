//! The built-in corpus: a small closed world, told in English and Chinese, from which a model of a few
//! million parameters learns to talk in minutes. Everything is drawn from a seed: text number `index` can
//! be made alone, in any order.
//!
//! The test asks only what training never asked: one fact in five is told in stories but never asked for, one pair of
//! operands in five is never added (nor used in a word problem), one word in seven is never spelled, and some ways to
//! ask about the assistant are never used. See [`World::questions`].

mod chat;
mod documents;
mod facts;
mod lexicon;
pub mod make;
mod people;
mod places;
mod problems;
mod prose;
mod questions;
mod stories_en;
mod stories_zh;
mod sums;
mod talk;
mod talk_en;
mod talk_zh;
mod telling;
#[cfg(test)]
mod tests;

use nanochat_tensor::Rng;
use serde::{Deserialize, Serialize};

pub use lexicon::compounds;
pub use questions::{HeldOutQuestion, QuestionKind, language_of};

use crate::conversation::Conversation;
use crate::text::language::TextLanguage;
use facts::Fact;
use prose::Prose;
use talk::TalkTemplates;

/// The vocabulary size that suits this corpus. A larger one merges Chinese phrases with their values (住在托维克), so that a
/// value gets a different token in each phrase; a smaller one splits values into pieces.
pub const DEFAULT_VOCAB_SIZE: usize = 3072;
/// The default number of documents: about 3.4 million tokens at this vocabulary. A document tells a given fact with a
/// probability of 0.6 % in English and of 0.9 % in Chinese: 70 and 105 times in a million tokens, 250 and 370 times in
/// all.
pub const DEFAULT_DOCUMENTS: u64 = 40_000;
/// The default number of conversations: about 0.8 million tokens.
pub const DEFAULT_CONVERSATIONS: u64 = 12_000;

/// The mix of documents: kind and share (of 100). Facts must be seen often, so kinds dense in facts are the most
/// frequent; sums and spellings teach the model to copy numbers and letters.
const DOCUMENTS: [(DocumentKind, usize); 12] = [
    (DocumentKind::Biography, 26),
    (DocumentKind::Story, 16),
    (DocumentKind::Guide, 6),
    (DocumentKind::Treasures, 3),
    (DocumentKind::List, 7),
    (DocumentKind::Comparison, 7),
    (DocumentKind::Dialogue, 9),
    (DocumentKind::Translations, 4),
    (DocumentKind::Sums, 9),
    (DocumentKind::Spellings, 9),
    (DocumentKind::Words, 2),
    (DocumentKind::Assistant, 2),
];

/// The languages and their shares. Chinese takes fewer tokens for the same content: with these shares half of the
/// tokens are Chinese.
const DOCUMENT_LANGUAGES: [(Language, usize); 2] = [(Language::English, 2), (Language::Chinese, 3)];

/// The mix of exchanges in conversations: topic and share (of 100).
const TOPICS: [(Topic, usize); 8] = [
    (Topic::Facts, 32),
    (Topic::Arithmetic, 18),
    (Topic::Spelling, 15),
    (Topic::Counting, 12),
    (Topic::Identity, 10),
    (Topic::SmallTalk, 6),
    (Topic::Story, 4),
    (Topic::Unknown, 3),
];

/// The numbers of exchanges in a conversation; each entry is equally likely.
const TURNS: [usize; 8] = [1, 1, 1, 2, 2, 3, 4, 5];

/// `[English, Chinese]`, to be indexed by a [`Language`].
type Bilingual = [&'static str; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// The sentences of documents.
    fn prose(self) -> &'static Prose {
        match self {
            Language::English => &stories_en::PROSE,
            Language::Chinese => &stories_zh::PROSE,
        }
    }

    /// The sentences of conversations.
    fn talk(self) -> &'static TalkTemplates {
        match self {
            Language::English => &talk_en::TALK,
            Language::Chinese => &talk_zh::TALK,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DocumentKind {
    Biography,
    Story,
    Guide,
    Treasures,
    List,
    Comparison,
    Dialogue,
    Translations,
    Sums,
    Spellings,
    Words,
    Assistant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Facts,
    Arithmetic,
    Spelling,
    Counting,
    Identity,
    SmallTalk,
    Story,
    Unknown,
}

/// The second part of the key of every random stream of the world, after the seed.
#[derive(Clone, Copy)]
enum Stream {
    Values,
    HeldOutFact,
    HeldOutWord,
    HeldOutSum,
    Document,
    Conversation,
    Question,
    Problem,
}

/// The people, towns and things of the world, and the facts about them.
pub struct World {
    seed: u64,
    /// The assistant's name.
    name: String,
    /// The languages of its texts.
    languages: &'static [Language],
    /// `[attribute][subject]`, indices into the attribute's values.
    values: Vec<Vec<usize>>,
    /// The facts that may be asked for in training, and those held out.
    asked: Vec<Fact>,
    held_out: Vec<Fact>,
}

impl World {
    pub fn new(seed: u64, assistant_name: &str, language: TextLanguage) -> World {
        let (held_out, asked) = facts::split(seed);
        let languages: &[Language] = match language {
            TextLanguage::En => &[Language::English],
            TextLanguage::Zh => &[Language::Chinese],
            TextLanguage::Mix => &[Language::English, Language::Chinese],
        };
        let (name, values) = (assistant_name.to_string(), facts::draw_values(seed));
        World { seed, name, languages, values, asked, held_out }
    }

    /// Returns pretraining text number `index` of an endless stream: 60 to 1,500 characters.
    pub fn document(&self, split: Split, index: u64) -> String {
        let rng = &mut self.stream(Stream::Document, split, index);
        let (mut kind, mut language) = (draw(&DOCUMENTS, rng), draw(&DOCUMENT_LANGUAGES, rng));
        if let [only] = self.languages {
            language = *only;
            if kind == DocumentKind::Translations {
                kind = DocumentKind::Comparison;
            }
        }
        self.write(kind, language, rng)
    }

    /// Returns conversation number `index` of an endless stream; those of the test ask only what is held out.
    pub fn conversation(&self, split: Split, index: u64) -> Conversation {
        self.talk(split, &mut self.stream(Stream::Conversation, split, index))
    }

    fn stream(&self, stream: Stream, split: Split, index: u64) -> Rng {
        Rng::new(&[self.seed, stream as u64, split as u64, index])
    }
}

/// Returns a random item, with the probability of its share.
fn draw<T: Copy>(shares: &[(T, usize)], rng: &mut Rng) -> T {
    let mut at = rng.below(shares.iter().map(|(_, share)| share).sum());
    for &(item, share) in shares {
        if at < share {
            return item;
        }
        at -= share;
    }
    unreachable!("`at` is below the sum of the shares")
}
