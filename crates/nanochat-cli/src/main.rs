//! The `nanochat` command.

mod tok;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// From text to a chat model
#[derive(Parser)]
#[command(name = "nanochat")]
struct Cli {
    /// Where everything a run makes lives [default: $NANOCHAT_BASE_DIR, else ~/.cache/nanochat]
    #[arg(long, global = true, value_name = "DIR")]
    base_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(subcommand)]
    Tok(tok::TokCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let from_environment = || std::env::var_os("NANOCHAT_BASE_DIR").map(PathBuf::from);
    let in_home = || std::env::home_dir().map(|home| home.join(".cache/nanochat"));
    let base_dir = cli.base_dir.or_else(from_environment).or_else(in_home).unwrap_or_default();
    let done = match cli.command {
        Command::Tok(command) => tok::run(command, &base_dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
