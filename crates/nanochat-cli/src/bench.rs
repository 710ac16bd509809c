//! `nanochat bench`: how fast this machine is.

use anyhow::Result;
use nanochat::bench::infer::{InferBench, infer};
use nanochat::bench::{TrainBench, ops, train};
use nanochat_serve::bench::{Percentiles, ServeBench};
use nanochat_tensor::Device;

#[derive(clap::Subcommand)]
pub enum BenchCommand {
    /// Time training steps on random tokens
    Train(TrainArgs),
    /// Time each op of a training step alone
    Ops(TrainArgs),
    /// Time answers: the first token, and decoding at several batch sizes
    Infer(InferArgs),
    /// Load a running server: first tokens, time per token, throughput
    Serve(ServeArgs),
}

#[derive(clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    bench: TrainBench,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct InferArgs {
    #[command(flatten)]
    bench: InferBench,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    bench: ServeBench,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: BenchCommand, device: &Device) -> Result<()> {
    match command {
        BenchCommand::Train(args) => run_train(&args, device),
        BenchCommand::Ops(args) => run_ops(&args, device),
        BenchCommand::Infer(args) => run_infer(&args, device),
        BenchCommand::Serve(args) => run_serve(&args),
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

fn run_infer(args: &InferArgs, device: &Device) -> Result<()> {
    let speed = infer(&args.bench, device)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&speed)?);
        return Ok(());
    }
    let gigabytes = speed.weight_bytes as f64 / 1e9;
    println!("d{} on {}: {gigabytes:.3} GB of {} weights", speed.depth, speed.device, speed.weights);
    if let Some(rate) = speed.read_gb_per_second {
        println!("memory is read at {rate:.1} GB/s");
    }
    println!(
        "{:>5} {:<16} {:>12} {:>9} {:>9} {:>9}",
        "rows", "", "first token", "a step", "tok/s", "of limit"
    );
    for batch in &speed.batches {
        let prompts = if batch.one_prompt { "of one prompt" } else { "distinct prompts" };
        let share = batch.share_of_limit.map_or(String::new(), |share| format!("{:.0} %", 100.0 * share));
        println!(
            "{:>5} {prompts:<16} {:>9.1} ms {:>6.2} ms {:>9.1} {share:>9}",
            batch.rows, batch.first_token_ms, batch.step_ms, batch.tokens_per_second
        );
    }
    Ok(())
}

fn run_serve(args: &ServeArgs) -> Result<()> {
    let key = std::env::var("NANOCHAT_API_KEY").ok();
    let speed = nanochat_serve::bench::run(&ServeBench { key, ..args.bench.clone() })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&speed)?);
        return Ok(());
    }
    println!("{} answers of {} clients in {:.1} s", speed.requests, args.bench.clients, speed.seconds);
    println!("{:>12.1} tok/s", speed.tokens_per_second);
    println!("{:>12.2} answers/s", speed.requests_per_second);
    println!("{:>12} told to come again", speed.refused);
    println!("{:<14} {:>9} {:>9} {:>9} {:>9}", "ms", "p50", "p90", "p99", "max");
    for (name, Percentiles { p50, p90, p99, max }) in [
        ("first token", speed.first_token_ms),
        ("between tokens", speed.token_ms),
        ("whole answer", speed.answer_ms),
    ] {
        println!("{name:<14} {p50:>9.1} {p90:>9.1} {p99:>9.1} {max:>9.1}");
    }
    Ok(())
}
