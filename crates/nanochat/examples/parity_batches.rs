//! Writes what `scripts/parity/train_200.py` trains on: the initial weights and the batches of
//! `nanochat train base` with the same depth, batch and seed.
//!
//! cargo run --release -p nanochat --example parity_batches -- BASE_DIR OUT DEPTH BATCH SEQ STEPS

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nanochat::checkpoint::write_folder;
use nanochat::config::GptConfig;
use nanochat::dataloader::DataLoader;
use nanochat::dataset::{OnBadShard, Shards, Split};
use nanochat::gpt::Gpt;
use nanochat_tensor::safetensors::SaveAs;
use nanochat_tokenizer::Tokenizer;
use safetensors::tensor::{Dtype, TensorView};

const SEED: u64 = 42;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base_dir, out, depth, batch, seq, steps] = args.as_slice() else {
        bail!("want BASE_DIR OUT DEPTH BATCH SEQ STEPS");
    };
    let (base_dir, out) = (PathBuf::from(base_dir), PathBuf::from(out));
    let number = |text: &String| text.parse::<usize>().with_context(|| format!("{text} is no number"));
    let shape = [number(batch)?, number(seq)?];
    let tokenizer = Tokenizer::from_file(&base_dir.join("tokenizer/tokenizer.json"))?;
    let config = GptConfig::from_depth(number(depth)?, tokenizer.vocab_size(), shape[1])?;
    write_folder(&out, &Gpt::init(config, SEED), &tokenizer, SaveAs::F32)?;

    let shards = Shards::open(&base_dir.join("base_data"), OnBadShard::Refuse)?;
    let mut loader = DataLoader::new(&shards, Split::Train, &tokenizer, shape, [0, 1], None)?;
    let (mut inputs, mut targets): (Vec<u8>, Vec<u8>) = Default::default();
    for _ in 0..number(steps)? {
        let batch = loader.next_batch()?;
        inputs.extend(batch.inputs.iter().flat_map(|id| id.to_le_bytes()));
        targets.extend(batch.targets.iter().flat_map(|id| id.to_le_bytes()));
    }
    let shape = vec![number(steps)?, shape[0], shape[1]];
    let view = |bytes| TensorView::new(Dtype::I32, shape.clone(), bytes);
    let tensors = [("inputs", view(&inputs)?), ("targets", view(&targets)?)];
    safetensors::serialize_to_file(tensors, None, &out.join("batches.safetensors"))?;
    println!("wrote {} with initial weights and batches.safetensors", out.display());
    Ok(())
}
