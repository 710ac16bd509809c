//! `nanochat serve`: serves a model over HTTP.

use std::path::Path;

use anyhow::{Result, ensure};
use nanochat::model::checkpoint::{FoundCheckpoint, LoadedModel};
use nanochat::terminal::flag_values;
use nanochat_serve::ServeOptions;
use nanochat_tensor::{Device, DeviceChoice};

use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct ServeCommand {
    #[command(flatten)]
    model: ModelArgs,
    /// Replicas of the model: with --device cuda one on each of the first N GPUs [default: 1, or --gpus]
    #[arg(long, value_name = "N", value_parser = flag_values::count)]
    replicas: Option<usize>,
    #[command(flatten)]
    options: ServeOptions,
}

pub fn run(command: &ServeCommand, base_dir: &Path, device: DeviceChoice, gpus: Option<usize>) -> Result<()> {
    let replicas = command.replicas.or(gpus).unwrap_or(1);
    ensure!(replicas <= 64, "--replicas may be 64 at most, found {replicas}");
    let open = |gpu| match device {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda => Device::cuda(gpu),
    };
    let devices: Vec<Device> = (0..replicas).map(open).collect::<Result<_, _>>()?;
    let loaded = command.model.load(base_dir, &Device::Cpu)?;
    command.model.tell(&loaded);
    let LoadedModel { model, tokenizer, folder } = loaded;
    let name = command.options.name.clone().unwrap_or_else(|| name(&folder));
    eprintln!("serving {} as {name}", folder.display());
    let listed_keys = std::env::var("NANOCHAT_API_KEYS").ok();
    let options = ServeOptions { listed_keys, ..command.options.clone() };
    nanochat_serve::run(model, tokenizer, name, &devices, &options, |address| {
        println!("http://{address}");
    })
}

/// Returns `nanochat-d4` for a checkpoint `chatsft_checkpoints/d4/step_000500`; the folder's own name for others.
fn name(folder: &Path) -> String {
    let last = |folder: &Path| Some(folder.file_name()?.to_string_lossy().into_owned());
    match FoundCheckpoint::of(folder) {
        Some(found) => format!("nanochat-{}", found.tag),
        None => folder.canonicalize().ok().and_then(|path| last(&path)).unwrap_or_else(|| "nanochat".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_after_its_run_or_its_folder() {
        assert_eq!(name(Path::new("/x/chatsft_checkpoints/d4/step_000500")), "nanochat-d4");
        assert_eq!(name(Path::new("/x/chatrl_checkpoints/d3/step_000060")), "nanochat-d3");
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("my-model");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(name(&folder), "my-model");
    }
}
