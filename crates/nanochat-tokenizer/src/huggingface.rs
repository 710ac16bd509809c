//! `tokenizer.json`, the file that `tokenizers` and `transformers` read and write.
//!
//! In it a token is written with one printable character per byte (GPT-2's alphabet: printable Latin-1
//! stands for itself, the other 68 bytes for the code points from U+0100 on), which is why Chinese
//! tokens look like `ä¸Ńæĸĩ`. We write the file, and read any that holds a byte-level BPE; what we would
//! encode differently from `tokenizers` is refused by name.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::encode::Merge;
use crate::special::AddedToken;
use crate::split::{GPT2_PATTERN, Splitter};
use crate::vocab::{MAX_VOCAB, Vocab};
use crate::{Tokenizer, TokenizerError};

/// The largest files in use have 30 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

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
        let file: TokenizerFile = serde_json::from_str(json).map_err(TokenizerError::Json)?;
        let nfc = read_normalizer(&file.normalizer)?;
        let mut patterns = Vec::new();
        read_pre_tokenizer(&file.pre_tokenizer, &mut patterns)?;
        let splitter = Splitter::new(&patterns.iter().map(String::as_str).collect::<Vec<_>>())?;
        let model: Model = read_model(file.model)?;
        let added: Vec<AddedToken> = file.added_tokens.into_iter().map(AddedToken::from).collect();
        let vocab = read_vocab(&model.vocab, &added)?;
        let merges = read_merges(&model, &vocab)?;
        let byte_ids = byte_ids(&model.vocab)?;
        Tokenizer::assemble(vocab, byte_ids, merges, model.ignore_merges, splitter, nfc, added)
    }

    /// The text of a `tokenizer.json` that `tokenizers` reads.
    pub fn to_json(&self) -> String {
        let shared = &*self.shared;
        let added_name = |id| {
            let found = shared.added.binary_search_by_key(&id, |token| token.id);
            found.ok().map(|i| shared.added[i].name.clone())
        };
        let vocab: Map<String, Value> = (shared.bpe.vocab.iter())
            .map(|(id, bytes)| (added_name(id).unwrap_or_else(|| spell(bytes)), Value::from(id)))
            .collect();
        let spelled = |id| spell(self.token_bytes(id).expect("a token of a merge"));
        let merges: Vec<String> = (shared.bpe.merges.iter())
            .map(|merge| format!("{} {}", spelled(merge.left), spelled(merge.right)))
            .collect();
        let added: Vec<Value> = (shared.added.iter())
            .map(|AddedToken { id, name, special }| {
                json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": special})
            })
            .collect();
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let split = |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let steps: Vec<Value> = shared.splitter.patterns().map(split).chain([byte_level.clone()]).collect();
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": if shared.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": null,
            "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": shared.bpe.ignore_merges, "vocab": vocab, "merges": merges,
            },
        });
        serde_json::to_string_pretty(&file).expect("plain JSON values")
    }

    /// Writes the `tokenizer.json` at once or not at all: to a temporary sibling, which is then renamed.
    pub fn save(&self, path: &Path) -> Result<(), TokenizerError> {
        let failed = |error| TokenizerError::Write { path: path.into(), error };
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".tmp{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let write = || {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(self.to_json().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&temporary); // the write error is the one to report
            failed(error)
        })
    }
}

/// The parts of the file that decide ids.
#[derive(Deserialize)]
struct TokenizerFile {
    model: Value,
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

impl From<AddedEntry> for AddedToken {
    fn from(entry: AddedEntry) -> AddedToken {
        AddedToken { id: entry.id, name: entry.content, special: entry.special }
    }
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeEntry>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeEntry {
    Pair(String, String),
    Line(String),
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, TokenizerError> {
    Err(TokenizerError::Unsupported(what.into()))
}

fn invalid<T>(what: impl Into<String>) -> Result<T, TokenizerError> {
    Err(TokenizerError::Invalid(what.into()))
}

fn type_of(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or("unnamed")
}

fn flag(part: &Value, name: &str, default: bool) -> bool {
    part.get(name).and_then(Value::as_bool).unwrap_or(default)
}

fn read_model(model: Value) -> Result<Model, TokenizerError> {
    // Old files leave the type out; only a BPE has merges.
    let kind = match type_of(&model) {
        "unnamed" if model.get("merges").is_some() => "BPE",
        kind => kind,
    };
    if kind != "BPE" {
        return unsupported(format!("its model is {kind}; only byte-level BPE can be read"));
    }
    let model: Model = serde_json::from_value(model).map_err(TokenizerError::Json)?;
    let affix = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if model.byte_fallback {
        return unsupported("its BPE works on characters (byte_fallback), not on bytes");
    }
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return unsupported("its tokens carry word prefixes or suffixes");
    }
    if model.dropout.is_some_and(|dropout| dropout > 0.0) {
        return unsupported("its merges are dropped at random");
    }
    Ok(model)
}

/// True for NFC, false for none.
fn read_normalizer(normalizer: &Value) -> Result<bool, TokenizerError> {
    if normalizer.is_null() {
        return Ok(false);
    }
    match type_of(normalizer) {
        "NFC" => Ok(true),
        "Sequence" => {
            let steps =
                normalizer.get("normalizers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            steps.iter().try_fold(false, |nfc, step| Ok(nfc | read_normalizer(step)?))
        }
        other => unsupported(format!("it changes the text first (normalizer {other}); only NFC is known")),
    }
}

/// Appends the split patterns that a pre-tokenizer stands for.
fn read_pre_tokenizer(step: &Value, patterns: &mut Vec<String>) -> Result<(), TokenizerError> {
    if patterns.len() > 32 {
        return unsupported("it splits text in more than 32 steps");
    }
    match type_of(step) {
        _ if step.is_null() => unsupported("it has no ByteLevel pre-tokenizer, so it is no byte-level BPE"),
        "Sequence" => {
            let steps = step.get("pretokenizers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match steps.last().map(type_of) {
                Some("ByteLevel") => steps.iter().try_for_each(|step| read_pre_tokenizer(step, patterns)),
                _ => unsupported("its pre-tokenizer does not end with ByteLevel, so it is no byte-level BPE"),
            }
        }
        "ByteLevel" if flag(step, "add_prefix_space", true) => {
            unsupported("it puts a space in front of the text (add_prefix_space)")
        }
        "ByteLevel" => {
            patterns.extend(flag(step, "use_regex", true).then(|| GPT2_PATTERN.to_string()));
            Ok(())
        }
        "Digits" => {
            let one_by_one = flag(step, "individual_digits", false);
            patterns.push(if one_by_one { r"\p{N}" } else { r"\p{N}+" }.to_string());
            Ok(())
        }
        "Split" => {
            patterns.push(read_split(step)?);
            Ok(())
        }
        other => unsupported(format!("its pre-tokenizer {other} is unknown")),
    }
}

fn read_split(step: &Value) -> Result<String, TokenizerError> {
    let behavior = step.get("behavior").and_then(Value::as_str).unwrap_or("none");
    // Removed and inverted keeps the matches and drops what lies between; patterns written so match
    // everything, and we would rather keep a gap than lose text.
    if !(behavior == "Isolated" || behavior == "Removed" && flag(step, "invert", false)) {
        return unsupported(format!("its Split step has the behavior {behavior}; only Isolated is known"));
    }
    let pattern = |kind| step.get("pattern").and_then(|pattern| pattern.get(kind)).and_then(Value::as_str);
    match (pattern("Regex"), pattern("String")) {
        (Some(regex), _) => Ok(regex.to_string()),
        (None, Some(text)) => Ok(fancy_regex::escape(text).into_owned()),
        (None, None) => invalid("a Split step has no pattern"),
    }
}

/// Tokens by id: those of the model and the added ones, whose names are their bytes.
fn read_vocab(tokens: &HashMap<String, u32>, added: &[AddedToken]) -> Result<Vocab, TokenizerError> {
    let mut by_id: HashMap<u32, (&str, Vec<u8>)> = HashMap::new();
    let mut names: HashMap<&str, u32> = HashMap::new();
    for AddedToken { id, name, .. } in added {
        if name.is_empty() || names.insert(name, *id).is_some() {
            return invalid(format!("the added token {name:?} is empty or listed twice"));
        }
        if tokens.get(name).is_some_and(|other| other != id) {
            return invalid(format!("the added token {name:?} has two ids"));
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

/// The id of every single byte.
fn byte_ids(tokens: &HashMap<String, u32>) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [0; 256];
    for (byte, id) in ids.iter_mut().enumerate() {
        let missing =
            || TokenizerError::Unsupported(format!("its vocabulary has no token for the byte {byte:#04x}"));
        *id = *tokens.get(&spell(&[byte as u8])).ok_or_else(missing)?;
    }
    Ok(ids)
}

fn read_merges(model: &Model, vocab: &Vocab) -> Result<Vec<Merge>, TokenizerError> {
    let mut merges: Vec<Merge> = Vec::with_capacity(model.merges.len());
    for (i, entry) in model.merges.iter().enumerate() {
        let (left, right) = match entry {
            MergeEntry::Pair(left, right) => (left.as_str(), right.as_str()),
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

/// The character that stands for each byte.
static ALPHABET: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut shifted = 0x100..;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte as u8 as char,
        _ => shifted.next().and_then(char::from_u32).expect("68 code points from U+0100 on"),
    })
});

static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| ALPHABET.iter().zip(0..=255).map(|(c, byte)| (*c, byte)).collect());

/// Writes bytes in the alphabet.
fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| ALPHABET[usize::from(*byte)]).collect()
}

/// Reads the alphabet; none if a character is not of it.
pub(crate) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTES.get(&c).copied()).collect()
}
