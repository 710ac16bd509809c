//! Files of the kinds in use give odd strings the ids that Hugging Face tokenizers gives them
//! (scripts/parity/make_tokenizer_fixtures.py), and so do the files that we write.

use std::path::{Path, PathBuf};

use nanochat_tokenizer::{SPECIAL_TOKENS, Tokenizer};
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The text of the kind's tokenizer.json, and the ids of the texts of the base.
fn kind(base: &Value, path: &Path) -> (String, Vec<Vec<u32>>) {
    let mut kind = json(path);
    let model = &mut kind["file"]["model"];
    model["merges"] = base["merges"].clone();
    let vocab = model["vocab"].as_object_mut().unwrap();
    vocab.extend(base["vocab"].as_object().unwrap().clone());
    (kind["file"].to_string(), serde_json::from_value(kind["ids"].clone()).unwrap())
}

#[test]
fn every_kind_gives_the_ids_of_tokenizers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let base = json(&folder.join("base.json"));
    let texts: Vec<String> = serde_json::from_value(base["texts"].clone()).unwrap();
    let files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let kinds: Vec<&PathBuf> = files.iter().filter(|path| !path.ends_with("base.json")).collect();
    assert!(kinds.len() > 20, "{kinds:?}");
    for path in kinds {
        let (file, expected) = kind(&base, path);
        let read = Tokenizer::from_json(&file).unwrap();
        let written = read.with_special(&SPECIAL_TOKENS).unwrap().to_json();
        for tokenizer in [read, Tokenizer::from_json(&written).unwrap()] {
            for (text, ids) in texts.iter().zip(&expected) {
                assert_eq!(tokenizer.encode(text), *ids, "{text:?} by {}", path.display());
            }
            assert_eq!(tokenizer.encode_batch(&texts), expected, "{}", path.display());
        }
    }
}
