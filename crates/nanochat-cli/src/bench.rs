//! `nanochat bench`: how fast this machine is.

use anyhow::Result;
use nanochat::bench::{TrainBench, train};
use nanochat_tensor::Device;

#[derive(clap::Subcommand)]
pub enum BenchCommand {
    /// Time training steps on random tokens
    Train(TrainArgs),
}

#[derive(clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    bench: TrainBench,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: BenchCommand, device: &Device) -> Result<()> {
    let BenchCommand::Train(args) = command;
    let speed = train(&args.bench, device)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&speed)?);
        return Ok(());
    }
    println!("d{} ({:.1}M parameters) on {}", speed.depth, speed.parameters as f64 / 1e6, speed.device);
    println!("{:>12.0} tok/s", speed.tokens_per_second);
    if let Some(mfu) = speed.mfu {
        println!("{:>12.1} % MFU", 100.0 * mfu);
    }
    println!("{:>12.1} ms a micro-step", speed.micro_step_ms);
    println!("{:>12.1} ms an optimizer step", speed.optimizer_ms);
    if let Some(peak) = speed.peak_memory_gib {
        println!("{peak:>12.2} GiB at most");
    }
    println!("{:>12.4} loss", speed.loss);
    Ok(())
}
