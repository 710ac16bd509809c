//! `nanochat train`: runs one training stage.

use std::path::Path;

use nanochat::train::stages::base::{self, BaseSettings};
use nanochat::train::stages::mid::{self, MidSettings};
use nanochat::train::stages::rl::{self, RlSettings};
use nanochat::train::stages::sft::{self, SftSettings};
use nanochat_tensor::{Comm, Device};

#[derive(clap::Subcommand)]
pub enum TrainCommand {
    /// Pretrain on shards of text
    Base(BaseSettings),
    /// Continue a base model on whole conversations (mid-training)
    Mid(MidSettings),
    /// Finetune on conversations, only on the assistant's messages
    Sft(SftSettings),
    /// Reinforcement learning on questions with checkable answers
    Rl(RlSettings),
}

pub fn run(command: TrainCommand, base_dir: &Path, device: &Device, comm: &Comm) -> anyhow::Result<()> {
    match command {
        TrainCommand::Base(settings) => base::run(&settings, base_dir, device, comm),
        TrainCommand::Mid(settings) => mid::run(&settings, base_dir, device, comm),
        TrainCommand::Sft(settings) => sft::run(&settings, base_dir, device, comm),
        TrainCommand::Rl(settings) => rl::run(&settings, base_dir, device, comm),
    }
}
