//! `nanochat report`: writes and prints the report of a run.

use std::path::Path;

use anyhow::Result;
use nanochat::report::{
    HTML_FILE, Lang, REPORT_FILE, WrittenReport, generate, has_earlier, report_folder, reset,
};
use nanochat::terminal::flag_values;

/// Write the report of a run and print it
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReportCommand {
    /// Name of the run [default: the one that reported last]
    #[arg(long)]
    model_tag: Option<String>,
    /// Language of the report's headings and labels
    #[arg(long, value_enum, default_value_t)]
    lang: Lang,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Delete the reports of all runs, and record the price of the machine for later ones
    Reset {
        /// Price of the machine in dollars an hour, for the report's cost
        #[arg(long, value_parser = flag_values::dollars)]
        price: Option<f64>,
    },
}

pub fn run(command: ReportCommand, base_dir: &Path) -> Result<()> {
    match command.action {
        Some(Action::Reset { price }) => {
            reset(base_dir, price)?;
            eprintln!("there is no report in {} any more", report_folder(base_dir).display());
        }
        None => {
            let WrittenReport { folder, text } =
                generate(base_dir, command.model_tag.as_deref(), command.lang)?;
            print!("{text}");
            let [markdown, html] = [REPORT_FILE, HTML_FILE].map(|file| folder.join(file));
            eprintln!("written to {} and {}", markdown.display(), html.display());
            let all = report_folder(base_dir);
            if folder != all && has_earlier(base_dir)? {
                eprintln!(
                    "the sections in {} itself are an earlier version's, which did not say of which run: they are left out",
                    all.display()
                );
            }
        }
    }
    Ok(())
}
