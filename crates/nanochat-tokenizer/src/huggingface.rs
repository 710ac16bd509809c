//! `tokenizer.json`, the file that `tokenizers` and `transformers` read and write.
//!
//! We write the file, and read any that holds a byte-level BPE: text becomes the same ids as in `tokenizers` with
//! `encode_special_tokens` (special tokens stay text) and without `add_special_tokens` (we add those ourselves). A file
//! that would give other ids is refused by name. Every key is supported, or listed here as one that changes no id: the
//! post-processor, the decoder (tokens are bytes), `unk_token`, `fuse_unk` and `byte_fallback` (every byte is a token,
//! so nothing is unknown).

mod model;
mod steps;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::alphabet::spell;
use crate::split::Splitter;
use crate::{Tokenizer, TokenizerError};

/// The largest file that is read, in bytes; those in use have up to 30 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

const KEYS: [&str; 9] = [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
];

impl Tokenizer {
    /// Reads a `tokenizer.json`: ours, or any byte-level BPE one (GPT-2, Llama 3, Qwen, cl100k, …).
    pub fn from_file(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let failed = |error| TokenizerError::Read { path: path.into(), error };
        let mut json = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut json).map_err(failed)?;
        let parsed = match json.len() as u64 > MAX_FILE_BYTES {
            true => Err(TokenizerError::Invalid("the file is larger than 256 MiB".into())),
            false => Tokenizer::from_json(&json),
        };
        parsed.map_err(|error| TokenizerError::InFile { path: path.into(), error: Box::new(error) })
    }

    /// Reads the text of a `tokenizer.json`.
    pub fn from_json(json: &str) -> Result<Tokenizer, TokenizerError> {
        let mut file: Map<String, Value> = serde_json::from_str(json).map_err(TokenizerError::Json)?;
        known_keys("the file", &file, &KEYS)?;
        let mut part = |key| file.remove(key).unwrap_or_default();
        check_version(&part("version"))?;
        for (key, does) in [("truncation", "cuts texts"), ("padding", "pads texts")] {
            if !part(key).is_null() {
                return unsupported(format!("it {does} ({key}); set {key:?} to null"));
            }
        }
        // Special tokens around a text and decoding are our own.
        steps::check("post_processor", &part("post_processor"), &steps::POST_PROCESSORS)?;
        steps::check("decoder", &part("decoder"), &["ByteLevel"])?;
        let nfc = steps::read_normalizer(&part("normalizer"))?;
        let splitter = Splitter::of(steps::read_pre_tokenizer(part("pre_tokenizer"))?)?;
        let model = model::read(part("model"))?;
        let added = model::read_added(part("added_tokens"), &model.vocab)?;
        let vocab = model::read_vocab(&model.vocab, &added)?;
        let byte_ids = model::byte_ids(&model.vocab, &vocab)?;
        let merges = model::read_merges(&model, &vocab)?;
        let ignore_merges = model.ignore_merges.unwrap_or(false);
        Tokenizer::assemble(vocab, byte_ids, merges, ignore_merges, splitter, nfc, added)
    }

    /// Returns the text of a `tokenizer.json` that `tokenizers` can read.
    pub fn to_json(&self) -> String {
        let shared = &*self.shared;
        let added_name = |id| {
            let found = shared.added.binary_search_by_key(&id, |token| token.id);
            found.ok().map(|i| shared.added[i].name.clone())
        };
        let unlisted = self.unlisted();
        let vocab: Map<String, Value> = (shared.bpe.vocab.iter())
            .filter(|(id, _)| !unlisted.contains(id))
            .map(|(id, bytes)| (added_name(id).unwrap_or_else(|| spell(bytes)), Value::from(id)))
            .collect();
        let spelled = |id| spell(self.token_bytes(id).expect("a token of a merge"));
        let merges: Vec<String> = (shared.bpe.merges.iter())
            .map(|merge| format!("{} {}", spelled(merge.left), spelled(merge.right)))
            .collect();
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": shared.added,
            "normalizer": if shared.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": shared.splitter.steps()},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": shared.bpe.ignore_merges, "vocab": vocab, "merges": merges,
            },
        });
        serde_json::to_string_pretty(&file).expect("plain JSON values")
    }

    /// Returns the added tokens that the written vocabulary omits. `tokenizers` gives those the ids after the number of
    /// listed tokens, whatever the file says, so that listing them is safer; but if merges are ignored, a piece of text
    /// could become a listed token.
    fn unlisted(&self) -> HashSet<u32> {
        let shared = &*self.shared;
        let unlisted = shared.added.iter().filter(|token| shared.bpe.ignore_merges && !token.listed);
        let ids: Vec<u32> = unlisted.map(|token| token.id).collect();
        let listed = shared.bpe.vocab.iter().count() - ids.len();
        match ids.iter().zip(listed..).all(|(id, expected)| *id as usize == expected) {
            true => ids.into_iter().collect(),
            false => HashSet::new(),
        }
    }
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, TokenizerError> {
    Err(TokenizerError::Unsupported(what.into()))
}

fn invalid<T>(what: impl Into<String>) -> Result<T, TokenizerError> {
    Err(TokenizerError::Invalid(what.into()))
}

fn known_keys(place: &str, object: &Map<String, Value>, known: &[&str]) -> Result<(), TokenizerError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => unsupported(format!("{place} has the key {key:?}, which is unknown")),
        None => Ok(()),
    }
}

fn check_version(version: &Value) -> Result<(), TokenizerError> {
    match version {
        Value::Null => Ok(()),
        version if version == "1.0" => Ok(()),
        other => unsupported(format!("the version of the file is {other}; only \"1.0\" is known")),
    }
}
