//! Trains on the batches of the example `parity_batches`, as `nanochat train base` does, and prints a line a step:
//! its number and the loss before its update.
//!
//! cargo run --release -p nanochat --example parity_train -- BATCHES DEVICE STEPS [FOLDER] > ours.tsv
//!
//! DEVICE is cpu or cuda. The schedule is that of all steps in the file, of which the first STEPS are trained. With
//! FOLDER, the initial weights are written there as model.safetensors, for scripts/parity/train_gpu.py.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nanochat::model::batch::Batch;
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat::model::gpt::Rates;
use nanochat::model::huggingface::save_weights;
use nanochat::model::optim::Optimizer;
use nanochat::train;
use nanochat::train::schedule::Schedule;
use nanochat_tensor::{Comm, DeviceChoice, Dtype};
use safetensors::SafeTensors;

const SEED: u64 = 42;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (batches, device, steps, folder) = match args.as_slice() {
        [batches, device, steps] => (batches, device, steps, None),
        [batches, device, steps, folder] => (batches, device, steps, Some(Path::new(folder))),
        _ => bail!("want BATCHES DEVICE STEPS [FOLDER]"),
    };
    let device: DeviceChoice = device.parse().map_err(anyhow::Error::msg)?;
    let (config, batches) = read(Path::new(batches))?;
    let steps: usize = steps.parse().with_context(|| format!("{steps} is no number"))?;

    let model = Gpt::init(config, SEED);
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)?;
        save_weights(folder, &model, Dtype::F32)?;
    }
    let mut model = model.to_device(&device.open(0)?)?;
    let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(&model, rates, 1.0, &Comm::alone());
    let schedule = Schedule::Trapezoid {
        num_iterations: batches.len(),
        warmup_ratio: 0.0,
        warmdown_ratio: 0.2,
        final_lr_frac: 0.0,
    };
    for (step, batch) in batches.into_iter().take(steps).enumerate() {
        let result = train::step(&mut model, &mut optimizer, &[batch], schedule.at(step))?;
        println!("{step}\t{}", result.loss);
    }
    Ok(())
}

/// The model's sizes and all batches of a file.
fn read(path: &Path) -> Result<(GptConfig, Vec<Batch>)> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let sizes: HashMap<String, String> = header.metadata().clone().unwrap_or_default();
    let size = |name: &str| {
        let text = sizes.get(name).with_context(|| format!("the file does not say its {name}"))?;
        text.parse::<usize>().with_context(|| format!("{name} {text} is no number"))
    };
    let shape = [size("batch_size")?, size("sequence_len")?];
    let config = GptConfig::from_depth(size("depth")?, size("vocab_size")?, shape[1])?;
    let len = shape[0] * shape[1];
    let batch = |step: &[u8]| {
        let (pairs, _) = step.as_chunks::<2>();
        let tokens: Vec<u32> = pairs.iter().map(|pair| u32::from(u16::from_le_bytes(*pair))).collect();
        let (inputs, targets) = (tokens[..len].to_vec(), tokens[1..].to_vec());
        Batch { inputs, targets, weights: vec![1.0; len], shape }
    };
    let tensors = SafeTensors::deserialize(&bytes)?;
    Ok((config, tensors.tensor("tokens")?.data().chunks_exact(2 * (len + 1)).map(batch).collect()))
}
