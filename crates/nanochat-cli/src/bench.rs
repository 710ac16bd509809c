//! `nanochat bench`: measures the speed of this machine.

use anyhow::Result;
use nanochat::bench::infer::{InferBench, InferSpeed, infer};
use nanochat::bench::rl::{RlBench, RlSpeed, rl};
use nanochat::bench::tok::{HARD_SIZES, TokBench, TokSpeed, tok};
use nanochat::bench::{
    DecodeBench, DecodeSpeed, OpSpeed, OpsBench, OpsSpeed, TrainBench, TrainSpeed, decode, ops, train,
};
use nanochat_serve::bench::{Percentiles, ServeBench, ServeSpeed};
use nanochat_tensor::{Comm, Device};
use serde::Serialize;

#[derive(clap::Subcommand)]
pub enum BenchCommand {
    /// Time training steps on random tokens
    Train(WithJson<TrainBench>),
    /// Time each op of a training step alone, compared with the whole step
    Ops(WithJson<OpsBench>),
    /// Time answers: the first token, and decoding at several batch sizes
    Infer(WithJson<InferBench>),
    /// Time a tokenizer on your text and on texts that are hard for it
    Tok(WithJson<TokBench>),
    /// Time a step of reinforcement learning: generating answers, and training on them
    Rl(WithJson<RlBench>),
    /// Time each kernel of a decode step on a GPU, compared with the whole step
    Decode(WithJson<DecodeBench>),
    /// Load a running server: time to the first token, time per token, throughput
    Serve(WithJson<ServeBench>),
}

#[derive(clap::Args)]
pub struct WithJson<Bench: clap::Args> {
    #[command(flatten)]
    bench: Bench,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: BenchCommand, device: &Device, comm: &Comm) -> Result<()> {
    match command {
        BenchCommand::Train(command) => {
            let speed = train(&command.bench, device, comm)?;
            if comm.is_first() { show(command.json, &speed, print_train) } else { Ok(()) }
        }
        BenchCommand::Ops(command) => show(command.json, &ops(&command.bench, device)?, print_ops),
        BenchCommand::Infer(command) => show(command.json, &infer(&command.bench, device)?, print_infer),
        BenchCommand::Tok(command) => show(command.json, &tok(&command.bench)?, print_tok),
        BenchCommand::Rl(command) => show(command.json, &rl(&command.bench, device)?, print_rl),
        BenchCommand::Decode(command) => show(command.json, &decode(&command.bench, device)?, print_decode),
        BenchCommand::Serve(WithJson { bench, json }) => {
            let key = std::env::var("NANOCHAT_API_KEY").ok();
            show(json, &nanochat_serve::bench::run(&ServeBench { key, ..bench })?, print_serve)
        }
    }
}

fn show<Speed: Serialize>(json: bool, speed: &Speed, print: impl Fn(&Speed)) -> Result<()> {
    match json {
        true => crate::output::print_json(speed)?,
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
        "d{} ({:.1}M parameters) on {}, {} rows, --recompute {}, products in {}",
        speed.depth,
        speed.parameters as f64 / 1e6,
        speed.device,
        speed.device_batch_size,
        speed.recompute,
        speed.precision
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
    if let Some(ranks) = &speed.ranks {
        println!(
            "{:>12.3} x the {:.0} tok/s of one rank alone: {:.1} % for each of {}",
            ranks.times,
            ranks.alone_tokens_per_second,
            100.0 * ranks.efficiency,
            ranks.count
        );
        if let (Some(collectives), Some(waited), Some(share)) =
            (ranks.collectives_ms, ranks.exposed_ms, ranks.exposed)
        {
            println!(
                "{waited:>12.1} ms of a step, {:.1} %, waiting for collectives of {collectives:.1} ms",
                100.0 * share
            );
        }
    }
    let planned = speed.planned_memory_gib;
    match speed.peak_memory_gib {
        Some(peak) => println!("{peak:>12.2} GiB at most, {planned:.2} by the plan"),
        None => println!("{planned:>12.2} GiB by the plan"),
    }
    println!("{:>12.4} loss", speed.loss);
}

fn print_infer(speed: &InferSpeed) {
    let gigabytes = speed.weight_bytes as f64 / 1e9;
    println!("d{} on {}: {gigabytes:.3} GB of {} weights", speed.depth, speed.device, speed.weights);
    println!("memory is read at {:.1} GB/s", speed.read_gb_per_second);
    println!(
        "{:>5} {:<16} {:>13} {:>10} {:>13} {:>9} {:>9}",
        "rows", "", "first token", "a step", "scheduling", "tok/s", "of limit"
    );
    for batch in &speed.batches {
        let prompts = if batch.one_prompt { "of one prompt" } else { "distinct prompts" };
        println!(
            "{:>5} {prompts:<16} {:>10.2} ms {:>7.3} ms {:>10.3} ms {:>9.1} {:>7.0} %",
            batch.rows,
            batch.first_token_ms,
            batch.step_ms,
            batch.schedule_ms,
            batch.tokens_per_second,
            100.0 * batch.share_of_limit
        );
    }
    for whole in &speed.whole {
        let (rows, requests) = (whole.rows, whole.requests);
        println!(
            "{rows:>5} rows answer {requests} prompts, these included, at {:.1} tok/s",
            whole.tokens_per_second
        );
    }
}

fn print_rl(speed: &RlSpeed) {
    println!(
        "d{} on {}: {} answers of {} tokens",
        speed.depth, speed.device, speed.answers, speed.answer_tokens
    );
    println!("{:>12.3} s answering", speed.answering_seconds);
    println!("{:>12.3} s learning", speed.learning_seconds);
    println!("{:>12.3} s a step", speed.step_seconds);
}

fn print_decode(speed: &DecodeSpeed) {
    println!("{}: a copy at {:.3} TB/s", speed.device, speed.copy_tb_per_second);
    for step in &speed.steps {
        println!("{} rows: {:.0} tok/s", step.rows, step.tokens_per_second);
        for part in step.parts.iter().chain([&step.step]) {
            let share = 100.0 * part.least_us / part.us;
            println!(
                "  {:<20} {:>3} x {:>8.2} us = {:>8.1} us, {share:>5.1} % of the limit",
                part.name,
                part.count,
                part.us / part.count as f64,
                part.us
            );
        }
        let sum: f64 = step.parts.iter().map(|part| part.us).sum();
        println!("  {:<20} {sum:>32.1} us", "all parts alone");
    }
}

fn print_tok(speed: &TokSpeed) {
    let TokSpeed { vocab_size, train_megabytes, train_mb_per_second, .. } = speed;
    println!(
        "{train_mb_per_second:>9.1} MB/s training {vocab_size} tokens on {train_megabytes:.1} MB, all threads"
    );
    println!(
        "{:>9.1} MB/s encoding {:.1} MB, one thread: {} tokens, {:.3} characters each",
        speed.encode_mb_per_second, speed.encode_megabytes, speed.tokens, speed.chars_per_token
    );
    print!("{:<20}", "MB/s by size");
    HARD_SIZES.iter().for_each(|bytes| print!("{:>9}", format!("{} KiB", bytes >> 10)));
    println!();
    for hard in &speed.hard {
        print!("{:<20}", hard.text);
        hard.mb_per_second.iter().for_each(|rate| print!("{rate:>9.1}"));
        println!();
    }
}

fn print_serve(speed: &ServeSpeed) {
    println!("{} answers in {:.1} s", speed.requests, speed.seconds);
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
}
