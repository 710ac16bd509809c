//! The `nanochat` command: one match over what it can do.

#[macro_use]
mod output; // first: its macros hold from here on

mod arguments;
mod bench;
mod chat;
mod data;
mod doctor;
mod download;
mod eval;
mod export;
mod plan;
mod report;
mod serve;
mod speedrun;
mod tok;
mod train;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use nanochat::stages::run::Interrupted;
use nanochat_tensor::DeviceChoice;
use nanochat_tensor::cuda::gpu_failure;

/// From raw text to a chat model of your own, on a laptop or on GPUs.
///
/// `nanochat speedrun` does all of it; every step is also a command of its own.
#[derive(Parser)]
#[command(name = "nanochat", version, propagate_version = true)]
pub struct Cli {
    /// Folder that everything a run makes lives under [default: ~/.cache/nanochat]
    #[arg(long, global = true, env = "NANOCHAT_BASE_DIR", value_name = "FOLDER", hide_env_values = true)]
    base_dir: Option<PathBuf>,
    /// What to compute on: cpu or cuda (one NVIDIA GPU, in bf16)
    #[arg(long, global = true, value_name = "DEVICE", default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
    /// TOML file of flags: `depth = 4` is --depth=4; flags on the command line win
    #[arg(long = "config", global = true, value_name = "FILE")]
    _config: Option<PathBuf>, // `arguments::expand` has put its flags in its place
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Data, tokenizer, training, evaluation and report in one go
    Speedrun(speedrun::SpeedrunCommand),
    /// Talk to a model
    Chat(chat::ChatCommand),
    /// Serve a model: a web chat, and an API that OpenAI's clients speak
    Serve(serve::ServeCommand),
    /// Make training text: the built-in corpus, or your own files
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Fetch a model
    #[command(subcommand)]
    Download(download::DownloadCommand),
    /// Train, measure and look into a tokenizer
    #[command(subcommand)]
    Tok(tok::TokCommand),
    /// Train a model, one stage at a time
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Measure a model
    #[command(subcommand)]
    Eval(eval::EvalCommand),
    /// What a run of some depth takes: parameters, tokens, memory, time, cost
    Plan(Box<plan::PlanCommand>),
    /// Put the report of a run together and print it
    Report(report::ReportCommand),
    /// Write a checkpoint's model as a Hugging Face folder of its own
    Export(export::ExportCommand),
    /// Measure speed: of training, of answers, of a server
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// What this machine has for training on a GPU, and what is missing
    Doctor,
}

fn main() -> ExitCode {
    let ends_quietly = end_quietly_when_nobody_reads();
    let cli = match arguments().and_then(arguments::expand).map(Cli::try_parse_from) {
        Ok(Ok(cli)) => cli,
        Ok(Err(error)) => error.exit(),
        Err(error) => return fail(&error),
    };
    // A client who leaves must not end a server.
    ends_quietly.store(!cli.command.speaks_http(), Ordering::Relaxed);
    // A GPU that fails at work, by running out of memory say, unwinds from wherever it was used.
    match catch_unwind(AssertUnwindSafe(|| cli.run())) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(panic) => match gpu_failure(&*panic) {
            Some(sentence) => fail(&anyhow::anyhow!("{sentence}")),
            None => resume_unwind(panic),
        },
    }
}

impl Command {
    fn trains(&self) -> bool {
        matches!(self, Command::Speedrun(_) | Command::Train(_) | Command::Bench(_))
    }

    fn speaks_http(&self) -> bool {
        matches!(self, Command::Serve(_) | Command::Bench(bench::BenchCommand::Serve(_)))
    }
}

/// A step frees and asks for the same large buffers again. glibc would give each of them back to the system and get it anew,
/// a zeroed page at a time: a sixth of a step of a d4.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: changes two numbers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

fn arguments() -> anyhow::Result<Vec<String>> {
    let text = |arg: OsString| arg.into_string().map_err(|arg| anyhow!("the argument {arg:?} is not UTF-8"));
    std::env::args_os().map(text).collect()
}

impl Cli {
    fn run(self) -> anyhow::Result<()> {
        let base_dir = match self.base_dir {
            Some(dir) => dir,
            None => default_base_dir()?,
        };
        if self.command.trains() {
            keep_freed_memory();
        }
        match self.command {
            Command::Speedrun(command) => speedrun::run(&command, &base_dir, self.device),
            Command::Chat(command) => chat::run(&command, &base_dir, &self.device.open()?),
            Command::Serve(command) => serve::run(&command, &base_dir, self.device),
            Command::Data(command) => data::run(command, &base_dir),
            Command::Download(command) => download::run(&command, &base_dir),
            Command::Tok(command) => tok::run(command, &base_dir),
            Command::Train(command) => train::run(command, &base_dir, &self.device.open()?),
            Command::Eval(command) => eval::run(&command, &base_dir, &self.device.open()?),
            Command::Plan(command) => plan::run(*command),
            Command::Report(command) => report::run(command, &base_dir),
            Command::Export(command) => export::run(&command, &base_dir),
            Command::Bench(command) => bench::run(command, &self.device.open()?),
            Command::Doctor => doctor::run(self.device),
        }
    }
}

fn default_base_dir() -> anyhow::Result<PathBuf> {
    match std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
        Some(home) => Ok(home.join(".cache/nanochat")),
        None => anyhow::bail!("there is no home folder; say --base-dir or set NANOCHAT_BASE_DIR"),
    }
}

/// One sentence, causes after colons. A run stopped on purpose ends with the code of Ctrl-C.
fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<Interrupted>() {
        eprintln!("{error}");
        return ExitCode::from(130);
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

/// `nanochat report | head` is no error, as long as this holds.
fn end_quietly_when_nobody_reads() -> Arc<AtomicBool> {
    let holds = Arc::new(AtomicBool::new(true));
    // Fails only for signals that cannot be caught, which SIGPIPE is not.
    let _ = signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 0, holds.clone());
    holds
}
