//! The words of the spelling tasks: `words_alpha.txt` in the folder of data sets, or else compounds of the built-in
//! world's parts. A hash of its letters decides whether a word is for training or for tests, in every task.

use std::path::Path;

use nanochat_tensor::Rng;

use super::{Split, TaskError};
use crate::files::file_error::FileError;
use crate::files::lines::Lines;
use crate::world::compounds;

const FILE: &str = "words_alpha.txt";
/// One word in this many is for tests.
const TEST_SHARE: usize = 10;
const SPLIT_SEED: u64 = 1;
const ORDER_SEED: u64 = 2;
/// The longest word that is used, in letters.
const MAX_LETTERS: usize = 45;

/// Returns the words of a split, shuffled.
pub fn open(split: Split, folder: &Path) -> Result<Vec<String>, TaskError> {
    let path = folder.join(FILE);
    let mut words = if path.exists() { read(&path)? } else { compounds() };
    words.sort();
    words.dedup();
    words.retain(|word| is_for_tests(word) == (split == Split::Test));
    if words.is_empty() {
        return Err(TaskError::Empty { path });
    }
    Rng::new(&[ORDER_SEED]).shuffle(&mut words);
    Ok(words)
}

/// One word a line.
fn read(path: &Path) -> Result<Vec<String>, FileError> {
    let word = |line: Result<(usize, Vec<u8>), FileError>| {
        let (line, bytes) = line?;
        let word = String::from_utf8_lossy(&bytes).to_lowercase();
        if word.chars().all(char::is_alphabetic) && word.chars().count() <= MAX_LETTERS {
            return Ok(word);
        }
        let shown: String = word.chars().take(MAX_LETTERS).collect();
        let reason = format!("{shown:?} is not a word of at most {MAX_LETTERS} letters");
        Err(FileError::Line { path: path.into(), line, reason })
    };
    Lines::open(path)?.map(word).collect()
}

fn is_for_tests(word: &str) -> bool {
    let mut key = vec![SPLIT_SEED];
    key.extend(word.chars().map(u64::from));
    Rng::new(&key).below(TEST_SHARE) == 0
}
