//! `nanochat data`: makes pretraining text and conversations.

mod clean;
mod mix;
mod stats;

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use nanochat::terminal::counted::{counted, plural};
use nanochat::text::dataset::Written;
use nanochat::text::ingest::{IngestOptions, Ingested, Oddities, PassedOver, ingest};
use nanochat::world::make::{Made, MakeOptions, make};

#[derive(Debug, clap::Subcommand)]
pub enum DataCommand {
    /// Write the built-in corpus, English and Chinese, to base_data and chat_data in the base directory
    Make {
        #[command(flatten)]
        options: MakeOptions,
    },
    /// Turn .txt, .md, .json, .jsonl, .csv, .tsv (also .gz, .zst) and .parquet files into pretraining shards
    Ingest {
        /// Files, or folders (with all their subfolders)
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// The new folder of shards [default: base_data in the base directory]
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        options: IngestOptions,
    },
    /// Clean text into shards: normalize, filter by quality rules and language, remove (near) duplicates
    Clean(clean::CleanArgs),
    /// Mix folders of shards by weight, such as zh=0.7:corpus/zh en=0.3:corpus/en
    Mix(mix::MixArgs),
    /// Count documents, characters, languages, lengths and tokens; compute the epochs of a run
    Stats(stats::StatsArgs),
    /// Download public data sets, any Hugging Face repository, or files by URL; resumes and verifies
    Download(crate::download::DownloadArgs),
}

impl DataCommand {
    /// Whether the command writes a folder.
    pub fn makes(&self) -> bool {
        !matches!(self, DataCommand::Stats(_))
    }
}

pub fn run(command: DataCommand, base_dir: &Path) -> anyhow::Result<()> {
    match command {
        DataCommand::Make { options } => {
            let progress = progress_bar("{wide_bar} {pos}/{len} texts {eta} left")?;
            let made = make(&options, base_dir, &progress)?;
            progress.finish_and_clear();
            print_made(&made, base_dir);
        }
        DataCommand::Ingest { paths, out, options } => {
            let out = out.unwrap_or_else(|| base_dir.join("base_data"));
            let progress = progress_bar("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")?;
            let report = ingest(&paths, &out, &options, &progress)?;
            progress.finish_and_clear();
            print_ingested(&report, &out);
        }
        DataCommand::Clean(args) => clean::run(&args, base_dir)?,
        DataCommand::Mix(args) => mix::run(&args, base_dir)?,
        DataCommand::Stats(args) => stats::run(&args, base_dir)?,
        DataCommand::Download(args) => crate::download::run_data(&args, base_dir)?,
    }
    Ok(())
}

fn progress_bar(style: &str) -> anyhow::Result<ProgressBar> {
    Ok(ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?))
}

fn print_made(made: &Made, base_dir: &Path) {
    let (base, chat) = (base_dir.join("base_data"), base_dir.join("chat_data"));
    match made.documents {
        Some(written) => print_written(&written, &base),
        None => eprintln!("kept {}, which is already there", base.display()),
    }
    match made.conversations {
        Some([train, test]) => {
            let train = counted(train as usize, "conversation");
            println!("wrote {train} for training and {test} for tests to {}", chat.display());
        }
        None => eprintln!("kept {}, which is already there", chat.display()),
    }
}

fn print_written(written: &Written, out: &Path) {
    println!(
        "wrote {} to {}: {} training and {} validation documents, {} characters",
        counted(written.shards, "shard"),
        out.display(),
        written.train_documents,
        written.val_documents,
        written.chars
    );
}

/// Prints figures to stdout, and what was left out to stderr.
fn print_ingested(report: &Ingested, out: &Path) {
    for (kind, count) in &report.kinds {
        let files = plural(count.files, "file");
        println!("{:<12}{:>8} {files:<5} {:>10} documents", kind.name(), count.files, count.documents);
    }
    print_written(&report.written, out);
    print_odd(&report.passed, &report.odd);
    if report.blank > 0 {
        eprintln!("left out {}", counted(report.blank, "blank document"));
    }
    if report.nuls > 0 {
        eprintln!("removed {}", counted(report.nuls, "NUL character"));
    }
}

/// Prints what was not read, left out or repaired to stderr.
fn print_odd(passed: &PassedOver, odd: &Oddities) {
    for sentence in passed.sentences().into_iter().chain(odd.sentences()) {
        eprintln!("{sentence}");
    }
}
