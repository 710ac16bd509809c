//! The `nanochat` command.

mod data;
mod tok;

use clap::Parser;

#[derive(Parser)]
#[command(name = "nanochat")]
struct Cli {
    #[arg(long, global = true)]
    base_dir: std::path::PathBuf,
    #[command(subcommand)]
    command: Command,
}
#[derive(clap::Subcommand)]
enum Command {
    #[command(subcommand)]
    Data(data::DataCommand),
    #[command(subcommand)]
    Tok(tok::TokCommand),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Command::Data(command) => data::run(command, &cli.base_dir),
        Command::Tok(command) => tok::run(command, &cli.base_dir),
    }
}
