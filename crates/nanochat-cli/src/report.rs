//! `nanochat report`: the report of a run, written and shown.

use std::path::Path;

use anyhow::Result;
use nanochat::report::{HTML_FILE, Lang, REPORT_FILE, generate, report_folder, reset};
use nanochat::values;

/// Put the report of a run together and print it
#[derive(clap::Args)]
pub struct ReportCommand {
    /// Language of its own words
    #[arg(long, value_enum, default_value_t)]
    lang: Lang,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Delete all sections and start the clock of a new run
    Reset {
        /// Dollars an hour that the machine costs, for the report's cost
        #[arg(long, value_parser = values::dollars)]
        price: Option<f64>,
    },
}

pub fn run(command: ReportCommand, base_dir: &Path) -> Result<()> {
    match command.action {
        Some(Action::Reset { price }) => {
            reset(base_dir, price)?;
            eprintln!("a new report starts in {}", report_folder(base_dir).display());
        }
        None => {
            let (folder, text) = generate(base_dir, command.lang)?;
            print!("{text}");
            let [markdown, html] = [REPORT_FILE, HTML_FILE].map(|file| folder.join(file));
            eprintln!("written to {} and {}", markdown.display(), html.display());
        }
    }
    Ok(())
}
