//! The fuzzing targets: the valid files that inputs are made from, the way to change them, and the reader.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nanochat::conversation::Examples;
use nanochat::files::lines::BadLines;
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat::model::huggingface::{self, TokenIds};
use nanochat::text::dataset::{ParquetTexts, ShardWriter, Split};
use nanochat_tensor::Dtype;
use nanochat_tensor::Rng;
use nanochat_tensor::safetensors;
use nanochat_tokenizer::{Tokenizer, TrainOptions, train};
use serde_json::{Value, json};

use crate::mutate;

/// A function that returns a changed form of its first argument, which is one of the second.
type Mutate = fn(&[u8], &[Vec<u8>], &mut Rng) -> Vec<u8>;

pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> &'static [Vec<u8>],
    pub mutate: Mutate,
    /// Whether the reader accepts the input. It may write into the folder.
    pub accepts: fn(&[u8], &Path) -> bool,
}

pub const TARGETS: [Target; 5] = [
    Target { name: "tokenizer", seeds: tokenizers, mutate: mutate::json_or_bytes, accepts: tokenizer },
    Target { name: "config", seeds: configs, mutate: mutate::json_or_bytes, accepts: config },
    Target { name: "safetensors", seeds: weights, mutate: head_or_bytes, accepts: tensors },
    Target { name: "parquet", seeds: shards, mutate: mutate::bytes, accepts: parquet },
    Target {
        name: "conversation",
        seeds: conversations,
        mutate: mutate::json_or_bytes,
        accepts: conversation,
    },
];

/// Changes the header or the bytes of a safetensors file, which consists of the header's length (8 bytes), the header
/// in JSON, and the values.
fn head_or_bytes(seed: &[u8], seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    if rng.below(4) == 0 {
        return mutate::bytes(seed, seeds, rng);
    }
    let (length, rest) = seed.split_first_chunk().expect("a whole file");
    let (head, values) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let head = mutate::json_or_bytes(head.trim_ascii_end(), &[head.trim_ascii_end().to_vec()], rng);
    [&(head.len() as u64).to_le_bytes(), &head[..], values].concat()
}

fn tokenizers() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let texts = ["the river and the stones, the river", "河水与石头 1234", "    fn main() {}\n"];
        let small =
            train(texts.iter(), &TrainOptions { vocab_size: 280, ..TrainOptions::default() }).unwrap();
        let mut tokens: Value = serde_json::from_str(&small.to_json()).unwrap();
        let own = small.to_json().into_bytes();
        tokens["normalizer"] = json!({"type": "NFC"});
        let mut seeds = vec![own, tokens.to_string().into_bytes()];
        // Tokenizers of other programs, with one small vocabulary.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nanochat-tokenizer/tests/fixtures");
        let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let base = read(&folder.join("base.json"));
        for path in files(&folder).into_iter().filter(|path| !path.ends_with("base.json")) {
            let mut file = read(&path)["file"].take();
            file["model"]["merges"] = base["merges"].clone();
            let vocab = file["model"]["vocab"].as_object_mut().unwrap();
            vocab.extend(base["vocab"].as_object().unwrap().clone());
            seeds.push(file.to_string().into_bytes());
        }
        seeds
    })
}

/// Returns the files of a folder in the order of their names, since seeds are numbered.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A tokenizer that is accepted must survive writing and reading, and restore every text.
fn tokenizer(input: &[u8], _: &Path) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(tokenizer) = Tokenizer::from_json(text) else { return false };
    let text = "The river: 河水 12345\n\n   and é😀 don't <|bos|>";
    let ids = tokenizer.encode(text);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    let again = Tokenizer::from_json(&tokenizer.to_json()).expect("what is written is read");
    assert_eq!(again.encode(text), ids);
    true
}

fn small_config() -> GptConfig {
    GptConfig {
        sequence_len: 16,
        vocab_size: 40,
        n_layer: 1,
        n_head: 2,
        n_kv_head: 1,
        n_embd: 32,
        ..GptConfig::from_depth(1, 40, 16).unwrap()
    }
}

fn configs() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let ids = TokenIds { bos: 0, eos: 1 };
        let own = huggingface::config_json(&small_config(), ids, Dtype::F32);
        let short = json!({"model_type": "nanochat", "hidden_size": 2048, "num_attention_heads": 16});
        let scaled = json!({"model_type": "nanochat", "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "hidden_size": 2048, "num_attention_heads": 16, "rms_norm_eps": 1e-6, "dtype": "bfloat16", "use_cache": true, "id2label": {"0": "a"}});
        let mut older = own.clone();
        older["rope_scaling"] = older["rope_parameters"].take();
        older.as_object_mut().expect("an object").remove("rope_parameters");
        [own, short, scaled, older].iter().map(|json| json.to_string().into_bytes()).collect()
    })
}

fn config(input: &[u8], folder: &Path) -> bool {
    fs::write(folder.join("config.json"), input).unwrap();
    huggingface::read_config(folder).is_ok()
}

fn weights() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = Gpt::init(small_config(), 1);
        let file = |dtype| {
            huggingface::save_weights(folder.path(), &model, dtype).unwrap();
            fs::read(folder.path().join("model.safetensors")).unwrap()
        };
        vec![file(Dtype::F32), file(Dtype::Bf16)]
    })
}

fn tensors(input: &[u8], folder: &Path) -> bool {
    let path = folder.join("model.safetensors");
    fs::write(&path, input).unwrap();
    safetensors::load(&path).is_ok()
}

fn shards() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("shards");
        let mut writer = ShardWriter::create(&dir, 1_000_000).unwrap();
        for i in 0..40 {
            writer.push(Split::Train, &format!("document {i} of the river, 河水")).unwrap();
            writer.push(Split::Val, &"the same line again and again\n".repeat(1 + i % 3)).unwrap();
        }
        writer.finish().unwrap();
        // Our own files, and those of pyarrow in each compression and encoding.
        let others = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
        let paths = [files(&dir), files(&others)].concat();
        let parquet = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "parquet"));
        parquet.map(|path| fs::read(path).unwrap()).collect()
    })
}

fn parquet(input: &[u8], folder: &Path) -> bool {
    let path = folder.join("shard.parquet");
    fs::write(&path, input).unwrap();
    let read_all = || -> Result<(), String> {
        let texts = ParquetTexts::open(&path, "text")?;
        for group in 0..texts.num_row_groups() {
            let mut rows = texts.rows(group, 0)?;
            while !rows.next_rows(64)?.is_empty() {}
        }
        Ok(())
    };
    read_all().is_ok()
}

fn conversations() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let parts = json!([{"type": "text", "text": "It is "}, {"type": "python", "text": "1+1"},
            {"type": "python_output", "text": "2"}]);
        let turns = json!([{"role": "system", "content": "Be short."}, {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": parts, "weight": 0.5}]);
        let messages = json!({"messages": turns, "id": 7, "weight": 2});
        let sharegpt = json!({"system": "你是", "tools": "", "conversations": [{"from": "human", "value": "你好"},
            {"from": "gpt", "value": "好", "loss": true}, {"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]});
        let alpaca = json!({"instruction": "Add.", "input": "1 and 1", "output": "2", "history": [["a", "b"]]});
        let list = json!([messages, alpaca]);
        [turns, messages, sharegpt, alpaca, list].iter().map(|json| json.to_string().into_bytes()).collect()
    })
}

/// A conversation that is accepted must also render.
fn conversation(input: &[u8], folder: &Path) -> bool {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let bytes = || train(["a"].iter(), &TrainOptions { vocab_size: 265, ..TrainOptions::default() }).unwrap();
    let tokenizer = TOKENIZER.get_or_init(bytes);
    let path = folder.join("chats.json");
    fs::write(&path, input).unwrap();
    let Ok(examples) = Examples::open(&path, BadLines::Fail) else { return false };
    let Ok(examples) = examples.collect::<Result<Vec<_>, _>>() else { return false };
    for (_, example) in &examples {
        let rendered = example.render(tokenizer, 2_048).expect("what is read can be rendered");
        let lengths = [rendered.ids.len(), rendered.mask.len(), rendered.weights.len()];
        assert!(lengths[0] <= 2_048 && lengths == [lengths[0]; 3], "{lengths:?}");
        assert!(rendered.weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0));
    }
    !examples.is_empty()
}
