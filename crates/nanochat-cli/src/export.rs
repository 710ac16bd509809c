//! `nanochat export`: a checkpoint's model without its training state.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nanochat::checkpoint::write_folder;
use nanochat_tensor::Device;
use nanochat_tensor::safetensors::SaveAs;

use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct ExportCommand {
    /// The new folder
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Type of the weights in the file
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

pub fn run(command: &ExportCommand, base_dir: &Path) -> Result<()> {
    if command.out.exists() {
        bail!("{} exists already; name a new folder", command.out.display());
    }
    let loaded = command.model.load(base_dir, &Device::Cpu)?;
    let dtype = match command.dtype {
        Dtype::F32 => SaveAs::F32,
        Dtype::Bf16 => SaveAs::Bf16,
    };
    if let Err(error) = write_folder(&command.out, &loaded.model, &loaded.tokenizer, dtype) {
        let _ = std::fs::remove_dir_all(&command.out);
        return Err(error.into());
    }
    println!("wrote {} from {}", command.out.display(), loaded.folder.display());
    Ok(())
}
