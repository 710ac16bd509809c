//! Checks before a run starts whether the device can do it.

use anyhow::{Result, bail};
use nanochat_tensor::Device;

use crate::model::config::{GptConfig, Recompute};
use crate::plan::{Memory, what_fits};
use crate::terminal::environment;

/// Returns an error if the device of one of `world_size` ranks cannot hold or compute a training run; the error says
/// what fits. Also tells a GPU what to advise if its memory still runs out.
pub fn check(
    config: &GptConfig,
    device_batch_size: usize,
    recompute: Recompute,
    device: &Device,
    world_size: usize,
) -> Result<()> {
    config.within(device.limits())?;
    let (Some(free), Some((_, total))) = (device.free_bytes(), device.memory()) else {
        let needed = Memory::cpu(config, device_batch_size, world_size, recompute).total();
        return check_cpu(config, device_batch_size, needed);
    };
    let needed = Memory::gpu(config, device_batch_size, world_size, recompute).total();
    let (free, total) = (free as f64, total as f64);
    if needed > free {
        bail!("{}", too_large(config, device_batch_size, [needed, free, total]));
    }
    // If the plan is too low, a run planned at five sixths of this memory is likely to fit.
    device.advise_when_full(what_fits(config, device_batch_size, free.min(needed / 1.2)));
    Ok(())
}

/// Returns the message for a run that is too large for a GPU: [needed, free, total] bytes.
fn too_large(config: &GptConfig, device_batch_size: usize, [needed, free, total]: [f64; 3]) -> String {
    let gib = |bytes: f64| format!("{:.1} GiB", bytes / f64::from(1 << 30));
    let others =
        if free < 0.9 * total { " (other programs hold the rest; `nvidia-smi` lists them)" } else { "" };
    format!(
        "a model of {} layers at --device-batch-size {device_batch_size} needs {} of the GPU's memory, and {} of its {} are free{others}; {}",
        config.n_layer,
        gib(needed),
        gib(free),
        gib(total),
        what_fits(config, device_batch_size, free)
    )
}

/// Returns an error if the CPU's memory is too small: the system would kill the process without a message.
fn check_cpu(config: &GptConfig, device_batch_size: usize, needed: f64) -> Result<()> {
    match environment::memory_bytes() {
        Some(there) if needed > there => bail!(
            "depth {} with a vocabulary of {} and a device batch of {device_batch_size} needs {:.1} GB of memory, and this machine has {:.1}; choose a smaller --depth, --device-batch-size or vocabulary, or --recompute block",
            config.n_layer,
            config.vocab_size,
            needed / 1e9,
            there / 1e9
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_too_large_is_told_what_is_free_and_what_fits() {
        let d20 = GptConfig::from_depth(20, 65_536, 2_048).unwrap();
        let gib = |n: f64| n * f64::from(1 << 30);
        let sentence = too_large(&d20, 32, [40.3, 22.0, 79.2].map(gib));
        let parts =
            ["20 layers at --device-batch-size 32 needs 40.3 GiB", "22.0 GiB of its 79.2 GiB are free"];
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
        assert!(sentence.contains("nvidia-smi") && sentence.contains("--recompute mlp"), "{sentence}");
        assert!(!too_large(&d20, 32, [40.3, 23.0, 23.6].map(gib)).contains("nvidia-smi"));
    }
}
