//! SpellingBee: count how often a letter occurs in a word, first by hand and then with the calculator.

mod templates;

use std::fmt::Write;
use std::path::Path;

use nanochat_tensor::Rng;

use super::gsm8k::final_answer;
use super::simple_spelling::spelled;
use super::{Grading, Split, Task, TaskError, exchange, words};
use crate::conversation::{Content, Conversation, Part, PartKind};
use templates::TEMPLATES;

/// The number of items of nanochat's midtraining.
const TRAIN_ITEMS: usize = 80_000;
/// The number of items in ChatCORE.
const TEST_ITEMS: usize = 256;
/// The first part of the key of an item's random stream.
const ITEM: u64 = 3;

pub struct SpellingBee {
    words: Vec<String>,
    split: Split,
    len: usize,
}

/// An item before it is put into words.
struct Riddle {
    user: String,
    word: String,
    letter: char,
    count: usize,
}

impl SpellingBee {
    pub fn open(split: Split, folder: &Path) -> Result<SpellingBee, TaskError> {
        let len = if split == Split::Train { TRAIN_ITEMS } else { TEST_ITEMS };
        Ok(SpellingBee { words: words::open(split, folder)?, split, len })
    }

    /// Returns item `i`. Nine times in ten the letter occurs in the word.
    fn riddle(&self, i: usize) -> Riddle {
        let rng = &mut Rng::new(&[ITEM, self.split as u64, i as u64]);
        let word = rng.choose(&self.words).clone();
        let letters: Vec<char> = word.chars().collect();
        let any: Vec<char> = ('a'..='z').collect();
        let letter = *if rng.below(10) > 0 { rng.choose(&letters) } else { rng.choose(&any) };
        let quoted = |text: &str, rng: &mut Rng| {
            let quote = *rng.choose(&["", "'", "\""]);
            format!("{quote}{text}{quote}")
        };
        let mut user = rng.choose(&TEMPLATES).to_string();
        if rng.below(5) == 0 {
            user = user.to_lowercase();
        }
        let letter_text = quoted(&letter.to_string(), rng);
        let word_text = quoted(&word, rng);
        user = user.replace("{l}", &letter_text).replace("{w}", &word_text);
        if rng.below(2) == 0 {
            user.push(if user.contains(is_cjk) { '？' } else { '?' });
        }
        let count = letters.iter().filter(|&&l| l == letter).count();
        Riddle { user, word, letter, count }
    }
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30FF}' | '\u{4E00}'..='\u{9FFF}')
}

/// Returns the solution to train on, byte for byte the reference's.
fn solution(Riddle { word, letter, count, .. }: &Riddle) -> Vec<Part> {
    let mut by_hand = format!(
        "We are asked to find the number '{letter}' in the word '{word}'. Let me try a manual approach first.\n\n\
         First spell the word out:\n{}\n\nThen count the occurrences of '{letter}':\n",
        spelled(word)
    );
    let mut hits = 0;
    for (i, c) in word.chars().enumerate() {
        let _ = write!(by_hand, "{}:{c}", i + 1);
        if c == *letter {
            hits += 1;
            let _ = write!(by_hand, " hit! count={hits}");
        }
        by_hand.push('\n');
    }
    let _ = write!(by_hand, "\nThis gives us {count}.");
    let part = |kind, text| Part { kind, text };
    vec![
        part(PartKind::Text, by_hand),
        part(PartKind::Text, "\n\nLet me double check this using Python:\n\n".into()),
        part(PartKind::Python, format!("'{word}'.count('{letter}')")),
        part(PartKind::PythonOutput, count.to_string()),
        part(PartKind::Text, format!("\n\nPython gives us {count}.\n\nMy final answer is:\n\n#### {count}")),
    ]
}

impl Task for SpellingBee {
    fn name(&self) -> &str {
        "SpellingBee"
    }

    fn kind(&self) -> Grading {
        Grading::Generative
    }

    fn len(&self) -> usize {
        self.len
    }

    fn conversation(&self, i: usize) -> Conversation {
        let riddle = self.riddle(i);
        let solution = solution(&riddle);
        exchange(riddle.user, Content::Parts(solution))
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        Ok(final_answer(answer) == Some(self.riddle(i).count.to_string()))
    }
}
