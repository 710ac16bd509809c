//! `nanochat train`: the stages, each alone.

use std::path::Path;

use nanochat::stages::base::{self, BaseSettings};
use nanochat::stages::sft::{self, SftSettings};
use nanochat_tensor::Device;

#[derive(clap::Subcommand)]
pub enum TrainCommand {
    /// Pretrain on shards of text
    Base(BaseSettings),
    /// Finetune a base model on conversations
    Sft(SftSettings),
}

pub fn run(command: TrainCommand, base_dir: &Path, device: &Device) -> anyhow::Result<()> {
    match command {
        TrainCommand::Base(settings) => base::run(&settings, base_dir, device),
        TrainCommand::Sft(settings) => sft::run(&settings, base_dir, device),
    }
}
