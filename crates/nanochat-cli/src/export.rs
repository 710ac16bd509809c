//! `nanochat export`: a checkpoint's model without its training state.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nanochat::checkpoint::write_folder;
use nanochat::partial_dir::PartialDir;
use nanochat_tensor::Device;
use nanochat_tensor::safetensors::SaveAs;

use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct ExportCommand {
    /// The new folder; complete or not there
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
    let folder = PartialDir::create(&command.out)?;
    let loaded = command.model.load(base_dir, &Device::Cpu)?;
    let dtype = match command.dtype {
        Dtype::F32 => SaveAs::F32,
        Dtype::Bf16 => SaveAs::Bf16,
    };
    write_folder(folder.path(), &loaded.model, &loaded.tokenizer, dtype)?;
    folder.commit()?;
    println!("wrote {} from {}", command.out.display(), loaded.folder.display());
    Ok(())
}
