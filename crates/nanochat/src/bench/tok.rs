//! Measures how fast a tokenizer is trained and encodes, on real text and on texts that are hard for encoders, at
//! growing sizes, to show that time grows linearly.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nanochat_tensor::Rng;
use nanochat_tokenizer::{Tokenizer, TrainOptions};
use serde::Serialize;

use crate::files::atomic_file;
use crate::terminal::flag_values;
use crate::text::dataset::{OnBadShard, Shards, Split};

/// The text and the tokenizer to time.
#[derive(Clone, Debug, clap::Args)]
pub struct TokBench {
    /// Folder of parquet shards
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Vocabulary size: 256 bytes, merges and special tokens
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = 32_768)]
    pub vocab_size: usize,
    /// Megabytes of the training shards to train on, in whole documents
    #[arg(long, value_parser = flag_values::positive, default_value_t = 50.0)]
    pub train_megabytes: f64,
    /// Megabytes of the validation shard to encode, on one thread
    #[arg(long, value_parser = flag_values::positive, default_value_t = 25.0)]
    pub encode_megabytes: f64,
    /// Repetitions of each measurement; the median counts
    #[arg(long, value_parser = flag_values::count, default_value_t = 3)]
    pub repeats: usize,
    /// File to write the trained tokenizer.json to, so that other implementations can encode with it
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// The measured speed of a tokenizer. Megabytes are millions of bytes.
#[derive(Clone, Debug, Serialize)]
pub struct TokSpeed {
    pub vocab_size: usize,
    pub train_megabytes: f64,
    pub train_mb_per_second: f64,
    pub encode_megabytes: f64,
    pub encode_mb_per_second: f64,
    pub tokens: usize,
    pub chars_per_token: f64,
    pub hard: Vec<HardSpeed>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HardSpeed {
    pub text: &'static str,
    /// The speed at each of [`HARD_SIZES`].
    pub mb_per_second: Vec<f64>,
}

/// The approximate sizes of the hard texts, in bytes.
pub const HARD_SIZES: [usize; 5] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

pub fn tok(bench: &TokBench) -> Result<TokSpeed> {
    ensure!(bench.repeats > 0, "--repeats must be at least 1");
    let shards = Shards::open(&bench.data, OnBadShard::Refuse)?;
    let texts = documents(&shards, Split::Train, bench.train_megabytes)?;
    let options = TrainOptions {
        vocab_size: bench.vocab_size,
        max_document_chars: usize::MAX,
        ..TrainOptions::default()
    };
    let train = || nanochat_tokenizer::train(texts.iter(), &options);
    let (trained, train_seconds) = median(bench.repeats, train);
    let tokenizer = trained?;
    if let Some(path) = &bench.save {
        let written = atomic_file::write(path, tokenizer.to_json().as_bytes());
        written.with_context(|| format!("failed to write {}", path.display()))?;
    }
    let train_megabytes = megabytes(&texts);
    drop(texts);
    let texts = documents(&shards, Split::Val, bench.encode_megabytes)?;
    let (tokens, encode_seconds) = median(bench.repeats, || encode(&tokenizer, &texts));
    let chars: usize = texts.iter().map(|text| text.chars().count()).sum();
    Ok(TokSpeed {
        vocab_size: tokenizer.vocab_size(),
        train_megabytes,
        train_mb_per_second: train_megabytes / train_seconds,
        encode_megabytes: megabytes(&texts),
        encode_mb_per_second: megabytes(&texts) / encode_seconds,
        tokens,
        chars_per_token: chars as f64 / tokens as f64,
        hard: hard(&tokenizer, bench.repeats),
    })
}

/// Returns the first documents of a split that fit into so many megabytes.
fn documents(shards: &Shards, split: Split, megabytes: f64) -> Result<Vec<String>> {
    let (mut texts, mut bytes) = (Vec::new(), 0);
    for text in shards.texts(split) {
        let text = text?;
        bytes += text.len();
        if bytes as f64 > megabytes * 1e6 {
            break;
        }
        texts.push(text);
    }
    ensure!(!texts.is_empty(), "the first document has more than {megabytes} megabytes; ask for more");
    Ok(texts)
}

fn megabytes(texts: &[String]) -> f64 {
    texts.iter().map(String::len).sum::<usize>() as f64 / 1e6
}

/// Returns the number of tokens of all texts, encoded one after the other.
fn encode(tokenizer: &Tokenizer, texts: &[String]) -> usize {
    let (mut ids, mut tokens) = (Vec::new(), 0);
    for text in texts {
        ids.clear();
        tokenizer.encode_into(text, &mut ids);
        tokens += ids.len();
    }
    tokens
}

/// Returns the result of `work` and the median of its run times in seconds.
fn median<T>(repeats: usize, mut work: impl FnMut() -> T) -> (T, f64) {
    let mut timed = || {
        let start = Instant::now();
        (work(), start.elapsed().as_secs_f64())
    };
    let (mut last, seconds) = timed();
    let mut all = vec![seconds];
    for _ in 1..repeats {
        let (again, seconds) = timed();
        last = again;
        all.push(seconds);
    }
    all.sort_by(f64::total_cmp);
    (last, all[all.len() / 2])
}

fn hard(tokenizer: &Tokenizer, repeats: usize) -> Vec<HardSpeed> {
    let kinds = ["one letter", "letters", "spaces", "digits", "random bytes", "Chinese characters"];
    let speed = |text: &str| {
        let (_, seconds) = median(repeats, || tokenizer.encode(text).len());
        text.len() as f64 / 1e6 / seconds
    };
    let of_kind = |text| HardSpeed {
        text,
        mb_per_second: HARD_SIZES.map(|bytes| speed(&hard_text(text, bytes))).to_vec(),
    };
    kinds.map(of_kind).to_vec()
}

/// Returns about `bytes` bytes of text that has no place to cut, except for the random kinds.
fn hard_text(kind: &str, bytes: usize) -> String {
    let mut rng = Rng::new(&[42]);
    match kind {
        "one letter" => "a".repeat(bytes),
        "letters" => (0..bytes).map(|_| (b'a' + rng.below(26) as u8) as char).collect(),
        "spaces" => " ".repeat(bytes),
        "digits" => (0..bytes).map(|_| (b'0' + rng.below(10) as u8) as char).collect(),
        "random bytes" => {
            let random: Vec<u8> = (0..bytes).map(|_| rng.below(256) as u8).collect();
            String::from_utf8_lossy(&random).into_owned()
        }
        _ => (0..bytes / 3).filter_map(|_| char::from_u32(0x4E00 + rng.below(20_000) as u32)).collect(),
    }
}
