//! The `nanochat` command.

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
    Tok(tok::TokCommand),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let Command::Tok(command) = cli.command;
    tok::run(command, &cli.base_dir)
}
