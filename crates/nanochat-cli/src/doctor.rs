//! `nanochat doctor`: checks what training on a GPU needs, and says how to install what is missing.

use std::fs;

use anyhow::{Result, anyhow};
use nanochat_tensor::DeviceChoice;
use nanochat_tensor::cuda::libraries::{self, NCCL, NEEDED, Needed, dotted};
use nanochat_tensor::cuda::{Cuda, cache_folder, library_version};
use nanochat_tensor::gpu::Gpu;

/// Fails only if a GPU was requested (`--device cuda`) and cannot be used.
pub fn run(wanted: DeviceChoice) -> Result<()> {
    line("driver", &driver());
    for library in NEEDED.into_iter().chain([NCCL]) {
        line(library.name, &found_or_missing(&library));
    }
    line("looked in", "the system's library path");
    libraries::folders().iter().for_each(|folder| line("", &folder.display().to_string()));
    line("kernels", &kernel_cache());
    let gpu = Cuda::open(0);
    match &gpu {
        Ok(gpu) => describe(gpu),
        Err(error) => line("GPU", reason(&error.to_string())),
    }
    let threads = std::thread::available_parallelism()?;
    line("CPU", &format!("{threads} threads; --device cpu always works"));
    match (wanted, gpu) {
        (DeviceChoice::Cuda, Err(_)) => Err(anyhow!("--device cuda does not work here; see above")),
        _ => Ok(()),
    }
}

/// Returns an error's sentence without its advice to run this command.
fn reason(sentence: &str) -> &str {
    match sentence.split_once(';') {
        Some((reason, advice)) if advice.contains("`nanochat doctor`") => reason,
        _ => sentence,
    }
}

fn line(name: &str, text: &str) {
    println!("{name:<10} {text}");
}

fn driver() -> String {
    let Some(cuda) = libraries::driver_version() else {
        return "missing; install NVIDIA's driver, 570 or later: the package nvidia-driver of Debian and Fedora, \
                nvidia-driver-570-server of Ubuntu, or nvidia.com/drivers (in a container: --gpus all)"
            .into();
    };
    let number = driver_number().unwrap_or_else(|| "of unknown number".into());
    format!("{number}, runs CUDA up to {}", dotted(cuda))
}

/// Returns the driver's version, such as 580.95.05.
fn driver_number() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_number = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_number).map(str::to_string)
}

fn found_or_missing(library: &Needed) -> String {
    let Needed { name, what_for, .. } = library;
    match library_version(name) {
        Some(version) => {
            let path = libraries::path(name).unwrap_or_else(|| "loaded".into());
            format!("{} {path} ({what_for})", dotted(version))
        }
        None => format!("missing ({what_for}); get it with {}", how_to_get(library)),
    }
}

/// Returns how to install a library for the CUDA version that the driver supports.
fn how_to_get(library: &Needed) -> String {
    let Needed { wheel, package, .. } = library;
    if *wheel == NCCL.wheel {
        let cuda = libraries::driver_version().map_or(13, |(major, _)| major);
        return format!("`pip install {wheel}-cu{cuda}`, or the package {package} of NVIDIA's repository");
    }
    match libraries::driver_version() {
        Some((12, _)) => {
            format!("`pip install {wheel}-cu12`, or the package {package}-12-8 of NVIDIA's repository")
        }
        _ => format!("`pip install {wheel}`, or the package {package}-13-0 of NVIDIA's repository"),
    }
}

fn kernel_cache() -> String {
    let Some(folder) = cache_folder() else {
        return "compiled at every start: set NANOCHAT_CUDA_CACHE to a folder".into();
    };
    let files: Vec<u64> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .collect();
    let megabytes = files.iter().sum::<u64>() as f64 / 1e6;
    format!("{} ({} files, {megabytes:.1} MB)", folder.display(), files.len())
}

fn describe(gpu: &Gpu) {
    let cuda = Cuda::of(gpu);
    let (major, minor) = cuda.compute_capability();
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    let (free, total) = (gib(gpu.free_bytes()), gib(gpu.total_bytes()));
    line("GPU", &format!("{}, compute capability {major}.{minor}, kernels for {}", gpu.name(), cuda.arch()));
    line("memory", &format!("{free:.1} GiB free of {total:.1} GiB"));
    line("ready", "train with --device cuda");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_a_way_to_get_it() {
        for library in NEEDED.into_iter().chain([NCCL]) {
            let way = how_to_get(&library);
            assert!(way.contains("pip install nvidia-") && way.contains(library.package), "{way}");
        }
    }
}
