//! The `nanochat` command: parses the command line and runs one subcommand.

#[macro_use]
mod output; // first, since its macros apply from here on

mod arguments;
mod bench;
mod chat;
mod data;
mod doctor;
mod download;
mod eval;
mod export;
mod launch;
mod plan;
mod report;
mod serve;
mod speedrun;
mod tok;
mod train;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use launch::RanksFailed;
use nanochat::terminal::command_line::{quoted, with_base_dir};
use nanochat::terminal::escape;
use nanochat::terminal::flag_values;
use nanochat::train::stages::run::{Interrupted, watch_signals};
use nanochat_tensor::gpu::gpu_failure;
use nanochat_tensor::{Comm, Device, DeviceChoice};

/// From raw text to a chat model of your own, on a laptop or on GPUs.
///
/// `nanochat speedrun` runs every step; each step is also a command of its own.
#[derive(Parser)]
#[command(name = "nanochat", version, propagate_version = true)]
pub struct Cli {
    /// Folder for everything that a run makes [default: ~/.cache/nanochat]
    #[arg(long, global = true, env = "NANOCHAT_BASE_DIR", value_name = "FOLDER", hide_env_values = true)]
    base_dir: Option<PathBuf>,
    /// Device to compute on: cpu or cuda (NVIDIA GPUs, in bf16) [default: cpu; cuda with --gpus]
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Number of this machine's GPUs to use, with one process each (with --device cpu: number of processes)
    #[arg(long, global = true, value_name = "N", value_parser = flag_values::whole::<usize, 1, 64>)]
    gpus: Option<usize>,
    /// Seconds after which a process stops waiting for the others, at the start and in a step
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        env = "NANOCHAT_RANK_TIMEOUT",
        hide_env_values = true,
        value_parser = flag_values::seconds,
        default_value_t = 600
    )]
    rank_timeout: u64,
    /// TOML file of flags: `depth = 4` is --depth=4; flags on the command line override it
    #[arg(long = "config", global = true, value_name = "FILE")]
    _config: Option<PathBuf>, // `arguments::expand` has replaced it by its flags
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Data, tokenizer, training, evaluation and report in one go
    Speedrun(speedrun::SpeedrunCommand),
    /// Chat with a model
    Chat(chat::ChatCommand),
    /// Serve a model: a web chat, and an OpenAI-compatible API
    Serve(serve::ServeCommand),
    /// Make training text: the built-in corpus, or your own files
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Download a model
    #[command(subcommand)]
    Download(download::DownloadCommand),
    /// Train, measure and inspect a tokenizer
    #[command(subcommand)]
    Tok(tok::TokCommand),
    /// Train a model, one stage at a time
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Measure a model
    #[command(subcommand)]
    Eval(eval::EvalCommand),
    /// Estimate a run of some depth: parameters, tokens, memory, time, cost
    Plan(Box<plan::PlanCommand>),
    /// Write the report of a run and print it
    Report(report::ReportCommand),
    /// Write a checkpoint's model as a separate Hugging Face folder
    Export(export::ExportCommand),
    /// Measure speed: of training, of answers, of a server
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Check what this machine has for training on a GPU, and what is missing
    Doctor,
}

fn main() -> ExitCode {
    let ends_quietly = end_quietly_when_nobody_reads();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !nanochat::text::dataset::is_guarded() {
            hook(panic);
        }
    }));
    let args = match arguments::expand(std::env::args_os().collect()) {
        Ok(args) => args,
        Err(error) => return fail(&error, None),
    };
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args),
    };
    // A client that disconnects must not end a server.
    ends_quietly.store(!cli.command.speaks_http() && !cli.command.makes(), Ordering::Relaxed);
    let base_dir = cli.base_dir.clone().filter(|folder| usual_base_dir().as_ref() != Some(folder));
    // A GPU that fails at work, for example by running out of memory, unwinds from wherever it was used.
    match catch_unwind(AssertUnwindSafe(|| cli.run(&args))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error, base_dir.as_deref()),
        Err(panic) => match gpu_failure(&*panic) {
            Some(sentence) => fail(&anyhow::anyhow!("{sentence}"), None),
            None => resume_unwind(panic),
        },
    }
}

/// Parses the command line. A `-1` after a flag is taken as its value, so that the flag's own range refuses it.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    fn takes_numbers(command: clap::Command) -> clap::Command {
        command.allow_negative_numbers(true).mut_subcommands(takes_numbers)
    }
    Cli::from_arg_matches(&takes_numbers(Cli::command()).try_get_matches_from(args)?)
}

/// Prints clap's error: in colours, unless it quotes an argument with terminal escapes.
fn refuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    if let (ErrorKind::InvalidUtf8, Some(arg)) = (error.kind(), foreign(args)) {
        return fail(&anyhow::anyhow!("the argument {arg:?} is not UTF-8"), None);
    }
    let said = error.render().to_string();
    if escape::text(&said) == said {
        error.exit();
    }
    eprintln!("{said}");
    ExitCode::from(2)
}

/// Returns the argument that is not valid UTF-8; clap reports that there is one, but not which. It is found by checking
/// which argument is still refused when all others are changed to UTF-8.
fn foreign(args: &[OsString]) -> Option<&OsString> {
    let changed = |arg: &OsString| OsString::from(arg.to_string_lossy().into_owned());
    let is_refused = |index: &usize| {
        let mut others: Vec<OsString> = args.iter().map(changed).collect();
        others[*index].clone_from(&args[*index]);
        parse(&others).is_err_and(|error| error.kind() == ErrorKind::InvalidUtf8)
    };
    (0..args.len()).find(is_refused).map(|index| &args[index])
}

impl Command {
    fn trains(&self) -> bool {
        matches!(self, Command::Speedrun(_) | Command::Train(_) | Command::Bench(_))
    }

    /// Whether the command makes something. Then a closed output pipe must not end it with code 0.
    fn makes(&self) -> bool {
        match self {
            Command::Speedrun(_) | Command::Train(_) | Command::Download(_) | Command::Export(_) => true,
            Command::Data(command) => command.makes(),
            Command::Tok(command) => command.makes(),
            _ => false,
        }
    }

    fn speaks_http(&self) -> bool {
        matches!(self, Command::Serve(_) | Command::Bench(bench::BenchCommand::Serve(_)))
    }

    /// Whether the command shares its work with the other ranks, if there are several.
    fn works_in_ranks(&self) -> bool {
        matches!(self, Command::Train(_) | Command::Eval(_) | Command::Bench(bench::BenchCommand::Train(_)))
    }

    /// Whether the command itself handles `--gpus`.
    fn counts_gpus(&self) -> bool {
        matches!(self, Command::Speedrun(_) | Command::Serve(_) | Command::Plan(_))
    }
}

/// Keeps freed memory in the process. A step frees and allocates the same large buffers again; glibc would return each
/// to the system and get it back one zeroed page at a time: a sixth of a step of a d4.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two parameters of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

impl Cli {
    /// Runs the command; `args` is the command line that it was parsed from.
    fn run(self, args: &[OsString]) -> anyhow::Result<()> {
        let device = self.device.unwrap_or(match self.gpus {
            None => DeviceChoice::Cpu,
            Some(_) => DeviceChoice::Cuda,
        });
        if !self.command.works_in_ranks() {
            let fits = self.gpus.is_none() || self.command.counts_gpus();
            ensure!(fits, "--gpus is for `train`, `eval`, `bench train`, `serve`, `speedrun` and `plan`");
            return self.run_on(device, None, &Comm::alone());
        }
        let patience = Duration::from_secs(self.rank_timeout);
        let started = launch::started(patience, |name| std::env::var(name).ok())?;
        match (self.gpus, &started) {
            (Some(gpus), None) => launch::start(gpus, args),
            _ => {
                let local_rank = started.as_ref().map(|started| started.local_rank);
                launch::take_part(started, |comm| self.run_on(device, local_rank, comm))
            }
        }
    }

    /// Runs the command as one rank. `local_rank` is its number on this machine; None if it is the only one.
    fn run_on(self, device: DeviceChoice, local_rank: Option<usize>, comm: &Comm) -> anyhow::Result<()> {
        let base_dir = match self.base_dir {
            Some(dir) => dir,
            None => default_base_dir()?,
        };
        if self.command.trains() {
            keep_freed_memory();
        }
        if self.command.makes() {
            watch_signals()?;
        }
        // Opens the GPU of this rank, and connects the ranks' GPUs.
        let open = || -> anyhow::Result<(Device, Comm)> {
            let device = device.open(local_rank.unwrap_or(0))?;
            let comm = match local_rank {
                Some(_) => comm.clone().with_nccl(&device)?,
                None => comm.clone(),
            };
            Ok((device, comm))
        };
        match self.command {
            Command::Speedrun(command) => speedrun::run(&command, &base_dir, device, self.gpus),
            Command::Chat(command) => chat::run(&command, &base_dir, &device.open(0)?),
            Command::Serve(command) => serve::run(&command, &base_dir, device, self.gpus),
            Command::Data(command) => data::run(command, &base_dir),
            Command::Download(command) => download::run(&command, &base_dir),
            Command::Tok(command) => tok::run(command, &base_dir),
            Command::Train(command) => {
                let (device, comm) = open()?;
                train::run(command, &base_dir, &device, &comm)
            }
            Command::Eval(command) => {
                let (device, comm) = open()?;
                eval::run(&command, &base_dir, &device, &comm)
            }
            Command::Bench(command) => {
                let (device, comm) = open()?;
                bench::run(command, &device, &comm)
            }
            Command::Plan(command) => plan::run(*command),
            Command::Report(command) => report::run(command, &base_dir),
            Command::Export(command) => export::run(&command, &base_dir),
            Command::Doctor => doctor::run(device),
        }
    }
}

/// Returns the base folder of a command without --base-dir.
fn usual_base_dir() -> Option<PathBuf> {
    std::env::var_os("NANOCHAT_BASE_DIR").map(PathBuf::from).or_else(|| default_base_dir().ok())
}

fn default_base_dir() -> anyhow::Result<PathBuf> {
    match std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
        Some(home) => Ok(home.join(".cache/nanochat")),
        None => anyhow::bail!("there is no home folder; say --base-dir or set NANOCHAT_BASE_DIR"),
    }
}

/// Prints an error as one sentence, with causes after colons; commands in it are given `base_dir` if that is not the
/// default. A run stopped on purpose ends with the code of Ctrl-C.
fn fail(error: &anyhow::Error, base_dir: Option<&Path>) -> ExitCode {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        if !output::is_silent() {
            eprintln!("{error}. Go on with: {}", going_on());
        }
        return ExitCode::from(interrupted.code);
    }
    let code = error.downcast_ref().map_or(1, |failed: &RanksFailed| failed.code);
    let mut sentence = format!("{error:#}");
    if let Some(base_dir) = base_dir {
        sentence = with_base_dir(&sentence, base_dir);
    }
    if !sentence.is_empty() {
        eprintln!("error: {}", escape::line(&sentence));
    }
    ExitCode::from(code)
}

/// Returns the command that resumes this one, quoted for a shell. A speedrun knows where it stopped.
fn going_on() -> String {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let is = |word: &OsString, flag: &str| word.to_str().is_some_and(|word| word.replace('_', "-") == flag);
    if words.iter().any(|word| is(word, "train")) {
        words.retain(|word| !is(word, "--overwrite") && !is(word, "--resume"));
        words.push("--resume".into());
    }
    // The variable may have been set for this command only.
    let named = |word: &OsString| word.to_string_lossy().replace('_', "-").starts_with("--base-dir");
    if let Some(folder) = std::env::var_os("NANOCHAT_BASE_DIR").filter(|_| !words.iter().any(named)) {
        words.extend(["--base-dir".into(), folder]);
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Makes a closed output pipe (`nanochat report | head`) end the program quietly, as long as the returned flag is set.
fn end_quietly_when_nobody_reads() -> Arc<AtomicBool> {
    let holds = Arc::new(AtomicBool::new(true));
    // Fails only for signals that cannot be caught, and SIGPIPE can.
    let _ = signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 0, holds.clone());
    holds
}
