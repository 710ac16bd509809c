//! Whether a device can do a run, asked before it is started.

use anyhow::{Result, bail};
use nanochat_tensor::Device;

use crate::config::{GptConfig, Recompute};
use crate::plan::{Memory, what_fits};
use crate::report;

/// Head sizes that the kernels of a GPU are compiled for.
const GPU_HEAD_DIMS: [usize; 2] = [64, 128];
/// The widest row that a warp's registers hold in the GPU's norm.
const GPU_WIDEST: usize = 4_096;

/// Refuses a training run that the device of one of `world_size` ranks cannot hold or compute, and says what it can. A GPU is also told
/// what to advise if its memory ends all the same.
pub fn check(
    config: &GptConfig,
    device_batch_size: usize,
    recompute: Recompute,
    device: &Device,
    world_size: usize,
) -> Result<()> {
    check_shapes(config, device)?;
    let Device::Cuda(gpu) = device else {
        let needed = Memory::cpu(config, device_batch_size, world_size, recompute).total();
        return check_cpu(config, device_batch_size, needed);
    };
    let (needed, free) =
        (Memory::gpu(config, device_batch_size, world_size, recompute).total(), gpu.free_bytes() as f64);
    if needed > free {
        let total = gpu.total_bytes() as f64;
        bail!("{}", too_large(config, device_batch_size, [needed, free, total]));
    }
    // Should the plan be wrong, then what it took for five sixths as much is likely to fit.
    gpu.advise_when_full(what_fits(config, device_batch_size, free.min(needed / 1.2)));
    Ok(())
}

/// Refuses a model whose shapes the device has no kernels for.
pub fn check_shapes(config: &GptConfig, device: &Device) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        Device::Cuda(_) => check_gpu_shapes(config),
    }
}

fn check_gpu_shapes(config: &GptConfig) -> Result<()> {
    let (head_dim, width) = (config.head_dim(), config.n_embd);
    if !GPU_HEAD_DIMS.contains(&head_dim) {
        bail!(
            "--device cuda works with heads of 64 or 128 values, and this model's have {head_dim}; every even --depth gives 128, and --device cpu takes any"
        );
    }
    if width > GPU_WIDEST || !width.is_multiple_of(8) {
        bail!(
            "--device cuda works with widths up to {GPU_WIDEST} in steps of 8, and this model's is {width}; --depth 64 is the deepest, and --device cpu takes any"
        );
    }
    Ok(())
}

/// The sentence for a run that is too large for a GPU: [needed, free, total] bytes.
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

/// The system would end the process without a word.
fn check_cpu(config: &GptConfig, device_batch_size: usize, needed: f64) -> Result<()> {
    match report::memory_bytes() {
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

    #[test]
    fn shapes_without_a_kernel_are_refused_in_words() {
        let with_depth = |depth| GptConfig::from_depth(depth, 100, 64).unwrap();
        for depth in [1, 2, 4, 8, 12, 20, 26, 32, 64] {
            check_gpu_shapes(&with_depth(depth)).unwrap();
        }
        let error = check_gpu_shapes(&with_depth(3)).unwrap_err().to_string();
        assert!(error.contains("have 96"), "{error}");
        assert!(check_gpu_shapes(&with_depth(66)).unwrap_err().to_string().contains("4096"));
    }
}
