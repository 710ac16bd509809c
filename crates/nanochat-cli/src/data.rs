//! `nanochat data`: where pretraining text and conversations come from.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use nanochat::ingest::{IngestOptions, Ingested, ingest};

#[derive(Debug, clap::Subcommand)]
pub enum DataCommand {
    /// Turn .txt, .md, .jsonl (also .gz, .zst) and .parquet files into pretraining shards
    Ingest {
        /// Files, or folders with all below them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// The new folder of shards [default: base_data in the base directory]
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        options: IngestOptions,
    },
}

pub fn run(command: DataCommand, base_dir: &Path) -> anyhow::Result<()> {
    match command {
        DataCommand::Ingest { paths, out, options } => {
            let out = out.unwrap_or_else(|| base_dir.join("base_data"));
            let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
            let progress = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
            let report = ingest(&paths, &out, &options, &progress).context("failed to ingest")?;
            progress.finish_and_clear();
            print_ingested(&report, &out);
        }
    }
    Ok(())
}

/// Figures to stdout, what was left out to stderr.
fn print_ingested(report: &Ingested, out: &Path) {
    for (kind, count) in &report.kinds {
        println!("{:<12}{:>8} files {:>10} documents", kind.name(), count.files, count.documents);
    }
    let written = report.written;
    println!(
        "wrote {} shards to {}: {} training and {} validation documents, {} characters",
        written.shards,
        out.display(),
        written.train_documents,
        written.val_documents,
        written.chars
    );
    for (extension, files) in &report.unknown {
        eprintln!("passed over {files} files with {extension}");
    }
    if report.blank > 0 {
        eprintln!("left out {} blank documents", report.blank);
    }
    if report.nuls > 0 {
        eprintln!("removed {} NUL characters", report.nuls);
    }
    if let Some(first) = &report.first_not_utf8 {
        let (documents, first) = (report.not_utf8, first.display());
        eprintln!("left out {documents} documents that are not UTF-8, the first in {first};");
        eprintln!("Chinese text in GBK is converted by `iconv -f GB18030 -t UTF-8`");
    }
}
