//! `nanochat train`: the stages, each alone.

use std::path::Path;

use nanochat::stages::base::{self, BaseSettings};
use nanochat::stages::mid::{self, MidSettings};
use nanochat::stages::rl::{self, RlSettings};
use nanochat::stages::sft::{self, SftSettings};
use nanochat_tensor::{Comm, Device};

#[derive(clap::Subcommand)]
pub enum TrainCommand {
    /// Pretrain on shards of text
    Base(BaseSettings),
    /// Go on with a base model on conversations, learned whole
    Mid(MidSettings),
    /// Finetune on conversations: on what the assistant says
    Sft(SftSettings),
    /// Reinforce right answers to questions that can be checked
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
