//! Reads the vocabulary of a file: the model's tokens, the added tokens, and the merges.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{invalid, known_keys, unsupported};
use crate::TokenizerError;
use crate::added::AddedToken;
use crate::alphabet::{bytes_of, spell};
use crate::merge::Merge;
use crate::vocab::{MAX_VOCAB, Vocab};

const KEYS: [&str; 10] = [
    "type",
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "vocab",
    "merges",
];

/// The keys of the model that decide ids.
#[derive(Deserialize)]
pub(super) struct Model {
    pub vocab: HashMap<String, u32>,
    merges: Vec<MergeEntry>,
    pub ignore_merges: Option<bool>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeEntry {
    Pair(String, String),
    Line(String),
}

pub(super) fn read(model: Value) -> Result<Model, TokenizerError> {
    let Value::Object(model) = model else { return invalid("it has no model") };
    // Old files omit the type; only a BPE has merges.
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("unnamed");
    if kind != "BPE" && !(kind == "unnamed" && model.contains_key("merges")) {
        return unsupported(format!("its model is {kind}; only byte-level BPE can be read"));
    }
    known_keys("its model", &model, &KEYS)?;
    let model: Model = serde_json::from_value(Value::Object(model)).map_err(TokenizerError::Json)?;
    let affix = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return unsupported("its tokens carry word prefixes or suffixes");
    }
    if model.dropout.is_some_and(|dropout| dropout > 0.0) {
        return unsupported("its merges are dropped at random");
    }
    Ok(model)
}

/// Reads the added tokens. Their ids are the ones that `tokenizers` gives them: those of the vocabulary, and for tokens
/// that it does not list the numbers after it, whatever the entry says.
pub(super) fn read_added(
    added: Value,
    vocab: &HashMap<String, u32>,
) -> Result<Vec<AddedToken>, TokenizerError> {
    let added: Option<Vec<AddedToken>> = serde_json::from_value(added)
        .map_err(|error| TokenizerError::Unsupported(format!("its added tokens: {error}")))?;
    let mut added = added.unwrap_or_default();
    let mut next = vocab.len() as u32;
    for token in &mut added {
        let (name, listed) = (&token.name, vocab.get(&token.name));
        match listed {
            Some(id) if *id != token.id => {
                return invalid(format!("the added token {name:?} has two ids, {id} and {}", token.id));
            }
            None if token.id != next => {
                return invalid(format!(
                    "the added token {name:?} has the id {}, and tokenizers would give it {next}, the next behind the \
                     vocabulary",
                    token.id
                ));
            }
            _ => {}
        }
        token.listed = listed.is_some();
        next += u32::from(!token.listed);
    }
    Ok(added)
}

/// Returns the tokens by id: those of the model, and the added ones, whose names are their bytes.
pub(super) fn read_vocab(
    tokens: &HashMap<String, u32>,
    added: &[AddedToken],
) -> Result<Vocab, TokenizerError> {
    let mut by_id: HashMap<u32, (&str, Vec<u8>)> = HashMap::new();
    let mut names: HashMap<&str, u32> = HashMap::new();
    for AddedToken { id, name, .. } in added {
        if name.is_empty() || names.insert(name, *id).is_some() {
            return invalid(format!("the added token {name:?} is empty or listed twice"));
        }
        if let Some((other, _)) = by_id.insert(*id, (name, name.clone().into_bytes())) {
            return invalid(format!("id {id} is taken by {other:?} and {name:?}"));
        }
    }
    for (token, &id) in tokens.iter().filter(|(token, _)| !names.contains_key(token.as_str())) {
        let Some(bytes) = bytes_of(token).filter(|bytes| !bytes.is_empty()) else {
            return unsupported(format!("token {id}, {token:?}, is not written in the byte-level alphabet"));
        };
        if let Some((other, _)) = by_id.insert(id, (token, bytes)) {
            return invalid(format!("id {id} is taken by {other:?} and {token:?}"));
        }
    }
    let largest = by_id.keys().max().map_or(0, |id| *id as usize);
    if largest >= MAX_VOCAB {
        return invalid(format!("id {largest} is too large; ids must be below {MAX_VOCAB}"));
    }
    let mut vocab = Vocab::default();
    for id in 0..=largest as u32 {
        vocab.push(by_id.get(&id).map_or(&[][..], |(_, bytes)| bytes));
    }
    Ok(vocab)
}

/// Returns the id of every single byte.
pub(super) fn byte_ids(tokens: &HashMap<String, u32>, vocab: &Vocab) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [0; 256];
    for (byte, id) in ids.iter_mut().enumerate() {
        let spelled = spell(&[byte as u8]);
        let Some(&found) = tokens.get(&spelled) else {
            return unsupported(format!("its vocabulary has no token for the byte {byte:#04x}"));
        };
        if vocab.get(found) != Some(&[byte as u8]) {
            return unsupported(format!("its added token {spelled:?} is written like the byte {byte:#04x}"));
        }
        *id = found;
    }
    Ok(ids)
}

pub(super) fn read_merges(model: &Model, vocab: &Vocab) -> Result<Vec<Merge>, TokenizerError> {
    let mut merges: Vec<Merge> = Vec::with_capacity(model.merges.len());
    for (i, entry) in model.merges.iter().enumerate() {
        let (left, right) = match entry {
            MergeEntry::Pair(left, right) => (left.as_str(), right.as_str()),
            // GPT-2's own file begins with this line.
            MergeEntry::Line(line) if line.starts_with("#version") => continue,
            MergeEntry::Line(line) => match line.split_once(' ') {
                Some(parts) => parts,
                None => return invalid(format!("merge {i}, {line:?}, is not two tokens")),
            },
        };
        let id = |token: &str| match model.vocab.get(token) {
            Some(id) => Ok(*id),
            None => invalid(format!(
                "merge {i}, {left:?} + {right:?}, needs {token:?}, which the vocabulary lacks"
            )),
        };
        let merge = Merge { left: id(left)?, right: id(right)?, merged: id(&format!("{left}{right}"))? };
        let bytes = |id| vocab.get(id).expect("an id of the vocabulary");
        if [bytes(merge.left), bytes(merge.right)].concat() != bytes(merge.merged) {
            return invalid(format!("merge {i}, {left:?} + {right:?}, makes an added token"));
        }
        merges.push(merge);
    }
    Ok(merges)
}
