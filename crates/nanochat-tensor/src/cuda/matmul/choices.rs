//! The fastest algorithms found so far, cached on disk by card and library version.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cache;

/// The eight words of each chosen algorithm, by the key of its product.
pub(super) struct Choices {
    by_key: BTreeMap<String, [u64; 8]>,
    /// The cache file; None if there is no cache folder.
    file: Option<PathBuf>,
}

impl Choices {
    /// Reads the choices in `file`; there are none if it is missing or damaged.
    pub fn read(file: Option<PathBuf>) -> Choices {
        let bytes = file.as_deref().and_then(cache::read).unwrap_or_default();
        let by_key = String::from_utf8_lossy(&bytes).lines().filter_map(parse).collect();
        Choices { by_key, file }
    }

    pub fn get(&self, key: &str) -> Option<[u64; 8]> {
        self.by_key.get(key).copied()
    }

    /// Adds a choice and writes the whole file again: choices are few, one per shape.
    pub fn insert(&mut self, key: &str, words: [u64; 8]) {
        self.by_key.insert(key.to_string(), words);
        if let Some(file) = &self.file {
            let lines: String = self.by_key.iter().map(|(key, words)| line(key, words)).collect();
            cache::write(file, lines.as_bytes());
        }
    }
}

/// Parses `key word word …`, with eight hexadecimal words.
fn parse(line: &str) -> Option<(String, [u64; 8])> {
    let (key, words) = line.split_once(' ')?;
    let words: Vec<u64> = words.split(' ').map_while(|word| u64::from_str_radix(word, 16).ok()).collect();
    Some((key.to_string(), words.try_into().ok()?))
}

fn line(key: &str, words: &[u64; 8]) -> String {
    words.iter().fold(key.to_string(), |line, word| format!("{line} {word:x}")) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("matmul.txt");
        let words = [0, 1, u64::MAX, 3, 4, 5, 6, 0xabc];
        Choices::read(Some(file.clone())).insert("8x8x8x1-n8-t8-F32+-8", words);
        let mut choices = Choices::read(Some(file.clone()));
        assert_eq!(choices.get("8x8x8x1-n8-t8-F32+-8"), Some(words));
        choices.insert("2x2x2x1-n2-n2-F32-2", [7; 8]);
        assert_eq!(Choices::read(Some(file)).by_key.len(), 2);
        for broken in ["", "key", "key 1 2", "key 1 2 3 4 5 6 7 x"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_damaged_file_holds_no_choice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("matmul.txt");
        Choices::read(Some(file.clone())).insert("key", [1; 8]);
        let text = std::fs::read_to_string(&file).unwrap().replace("key 1 1", "key 1 9");
        std::fs::write(&file, text).unwrap();
        assert_eq!(Choices::read(Some(file)).get("key"), None);
    }
}
