//! Writes what the scripts in scripts/parity and the example `parity_train` train on: the initial weights and the
//! batches of `nanochat train base` with the same depth, batch and seed.
//!
//! cargo run --release -p nanochat --example parity_batches -- BASE_DIR OUT DEPTH BATCH SEQ STEPS
//!
//! OUT/batches.safetensors holds `tokens` (steps, B·T + 1) in 16 bits: B·T inputs, and one more for the last
//! target. Its metadata says the rest, so that it can be carried alone: 300 steps of 32 x 2,048 are 39 MB.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nanochat::model::checkpoint::write_folder;
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat::text::dataloader::DataLoader;
use nanochat::text::dataset::{OnBadShard, Shards, Split};
use nanochat_tensor::Comm;
use nanochat_tensor::Dtype;
use nanochat_tokenizer::Tokenizer;
use safetensors::tensor::{Dtype as FileDtype, TensorView};

const SEED: u64 = 42;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base_dir, out, depth, batch, seq, steps] = args.as_slice() else {
        bail!("want BASE_DIR OUT DEPTH BATCH SEQ STEPS");
    };
    let (base_dir, out) = (PathBuf::from(base_dir), PathBuf::from(out));
    let number = |text: &String| text.parse::<usize>().with_context(|| format!("{text} is no number"));
    let (shape, steps) = ([number(batch)?, number(seq)?], number(steps)?);
    let tokenizer = Tokenizer::from_file(&base_dir.join("tokenizer/tokenizer.json"))?;
    let config = GptConfig::from_depth(number(depth)?, tokenizer.vocab_size(), shape[1])?;
    write_folder(&out, &Gpt::init(config, SEED), &tokenizer, Dtype::F32)?;

    let shards = Shards::open(&base_dir.join("base_data"), OnBadShard::Refuse)?;
    let mut loader = DataLoader::new(&shards, Split::Train, &tokenizer, shape, None, &Comm::alone())?;
    let mut tokens: Vec<u8> = Vec::new();
    for _ in 0..steps {
        let batch = loader.next_batch()?;
        for id in batch.inputs.iter().chain(batch.targets.last()) {
            tokens.extend(u16::try_from(*id).context("the vocabulary is above 65,536")?.to_le_bytes());
        }
    }
    let view = TensorView::new(FileDtype::U16, vec![steps, shape[0] * shape[1] + 1], &tokens)?;
    let sizes = [("depth", depth.clone()), ("vocab_size", config.vocab_size.to_string())];
    let sizes = sizes.into_iter().chain([("batch_size", batch.clone()), ("sequence_len", seq.clone())]);
    let metadata: HashMap<String, String> = sizes.map(|(name, size)| (name.to_string(), size)).collect();
    safetensors::serialize_to_file([("tokens", view)], Some(metadata), &out.join("batches.safetensors"))?;
    println!("wrote {} with initial weights and batches.safetensors", out.display());
    Ok(())
}
