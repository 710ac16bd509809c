//! `nanochat bench`: how fast this machine is.

use anyhow::Result;
use nanochat::bench::{TrainBench, ops, train};
use nanochat_tensor::Device;

#[derive(clap::Subcommand)]
pub enum BenchCommand {
    /// Time training steps on random tokens
    Train(TrainArgs),
    /// Time each op of a training step alone
    Ops(TrainArgs),
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
    match command {
        BenchCommand::Train(args) => run_train(&args, device),
        BenchCommand::Ops(args) => run_ops(&args, device),
    }
}

fn run_ops(args: &TrainArgs, device: &Device) -> Result<()> {
    let speeds = ops(&args.bench, device)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&speeds)?);
        return Ok(());
    }
    println!("{:<32} {:>20} {:>20}", format!("d{} on {device}", args.bench.depth), "forward", "backward");
    for op in speeds {
        let part = |ms: f64, rate: f64| format!("{ms:.3} ms {rate:>8.2}");
        let (forward, backward) =
            (part(op.forward_ms, op.forward_rate), part(op.backward_ms, op.backward_rate));
        println!("{:<32} {forward:>20} {backward:>20} {}", op.name, op.unit);
    }
    Ok(())
}

fn run_train(args: &TrainArgs, device: &Device) -> Result<()> {
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
