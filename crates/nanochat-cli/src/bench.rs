//! `nanochat bench`: how fast this machine is.

use anyhow::Result;
use nanochat::bench::{OpSpeed, OpsBench, OpsSpeed, TrainBench, TrainSpeed, ops, train};
use nanochat_tensor::Device;
use serde::Serialize;

#[derive(clap::Subcommand)]
pub enum BenchCommand {
    /// Time training steps on random tokens
    Train(Command<TrainBench>),
    /// Time each op of a training step alone, and the step beside them
    Ops(Command<OpsBench>),
}

#[derive(clap::Args)]
pub struct Command<Bench: clap::Args> {
    #[command(flatten)]
    bench: Bench,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: BenchCommand, device: &Device) -> Result<()> {
    match command {
        BenchCommand::Train(command) => show(command.json, &train(&command.bench, device)?, print_train),
        BenchCommand::Ops(command) => show(command.json, &ops(&command.bench, device)?, print_ops),
    }
}

fn show<Speed: Serialize>(json: bool, speed: &Speed, print: impl Fn(&Speed)) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(speed)?),
        false => print(speed),
    }
    Ok(())
}

fn print_ops(speed: &OpsSpeed) {
    let OpsSpeed { ceiling, ops, floor_ms, train } = speed;
    println!(
        "d{} on {}: a large product at {:.2} TFLOP/s, a copy at {:.3} TB/s",
        train.depth, train.device, ceiling.product_tflops, ceiling.copy_tb_per_second
    );
    println!("{:<32} {:>5} {:>20} {:>20} {:>18}", "", "count", "forward", "backward", "of the ceiling");
    for op in ops {
        let OpSpeed { name, count, unit, of_ceiling, .. } = op;
        let part = |ms: f64, rate: f64| format!("{ms:.3} ms {rate:>8.2}");
        let (forward, backward) =
            (part(op.forward_ms, op.forward_rate), part(op.backward_ms, op.backward_rate));
        println!(
            "{name:<32} {count:>5} {forward:>20} {backward:>20} {unit:<8} {:>7.1} %",
            100.0 * of_ceiling
        );
    }
    let step = train.micro_step_ms;
    println!("{floor_ms:>12.1} ms all of them as often as a micro-step does them");
    println!("{step:>12.1} ms the micro-step: {:.1} % of it is the ops'", 100.0 * floor_ms / step);
    println!("{:>12.1} ms the optimizer's step", train.optimizer_ms);
}

fn print_train(speed: &TrainSpeed) {
    println!(
        "d{} ({:.1}M parameters) on {}, {} rows, --recompute {}",
        speed.depth,
        speed.parameters as f64 / 1e6,
        speed.device,
        speed.device_batch_size,
        speed.recompute
    );
    println!("{:>12.0} tok/s", speed.tokens_per_second);
    if let Some(mfu) = speed.mfu {
        println!("{:>12.1} % MFU", 100.0 * mfu);
    }
    println!("{:>12.1} ms a micro-step", speed.micro_step_ms);
    println!("{:>12.1} ms an optimizer step", speed.optimizer_ms);
    if let Some(busy) = speed.gpu_busy {
        println!("{:>12.1} % of the step the GPU worked", 100.0 * busy);
    }
    let planned = speed.planned_memory_gib;
    match speed.peak_memory_gib {
        Some(peak) => println!("{peak:>12.2} GiB at most, {planned:.2} by the plan"),
        None => println!("{planned:>12.2} GiB by the plan"),
    }
    println!("{:>12.4} loss", speed.loss);
}
