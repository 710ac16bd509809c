//! `nanochat export`: writes a checkpoint's model without its training state.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use nanochat::files::partial_dir::PartialDir;
use nanochat::model::checkpoint::write_folder;
use nanochat_tensor::{Device, Dtype};

use crate::chat::ModelArgs;

#[derive(clap::Args)]
pub struct ExportCommand {
    /// Folder to write; must not exist. It appears only when complete
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Type of the weights in the file
    #[arg(long, value_parser = written(), default_value_t = Dtype::F32)]
    dtype: Dtype,
}

/// Reads one of the types that a safetensors file of weights is written in.
fn written() -> impl TypedValueParser<Value = Dtype> {
    PossibleValuesParser::new(["f32", "bf16"]).try_map(|name| name.parse::<Dtype>())
}

pub fn run(command: &ExportCommand, base_dir: &Path) -> Result<()> {
    let folder = PartialDir::create(&command.out)?;
    let loaded = command.model.load(base_dir, &Device::Cpu)?;
    write_folder(folder.path(), &loaded.model, &loaded.tokenizer, command.dtype)?;
    folder.commit()?;
    println!("wrote {} from {}", command.out.display(), loaded.folder.display());
    Ok(())
}
