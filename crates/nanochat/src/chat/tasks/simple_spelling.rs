//! SimpleSpelling: a word, letter by letter. Tokens hide the letters of words; this teaches them.

use std::path::Path;

use super::{Grading, Split, Task, TaskError, exchange, words};
use crate::conversation::{Content, Conversation};

/// The number of items of nanochat's midtraining; if there are fewer words, some repeat.
const TRAIN_ITEMS: usize = 200_000;
const TEST_ITEMS: usize = 256;

pub struct SimpleSpelling {
    words: Vec<String>,
    len: usize,
}

impl SimpleSpelling {
    pub fn open(split: Split, folder: &Path) -> Result<SimpleSpelling, TaskError> {
        let len = if split == Split::Train { TRAIN_ITEMS } else { TEST_ITEMS };
        Ok(SimpleSpelling { words: words::open(split, folder)?, len })
    }

    fn spelled(&self, i: usize) -> String {
        spelled(&self.words[i % self.words.len()])
    }
}

/// Returns `word:w,o,r,d`.
pub fn spelled(word: &str) -> String {
    let letters: Vec<String> = word.chars().map(String::from).collect();
    format!("{word}:{}", letters.join(","))
}

impl Task for SimpleSpelling {
    fn name(&self) -> &str {
        "SimpleSpelling"
    }

    fn kind(&self) -> Grading {
        Grading::Generative
    }

    fn len(&self) -> usize {
        self.len
    }

    fn conversation(&self, i: usize) -> Conversation {
        let word = &self.words[i % self.words.len()];
        exchange(format!("Spell the word: {word}"), Content::Text(self.spelled(i)))
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        Ok(answer.trim() == self.spelled(i))
    }
}
