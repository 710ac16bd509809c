//! `nanochat data clean`: prints what was read, what was removed and why, and what was kept.

use std::path::{Path, PathBuf};
use std::time::Instant;

use nanochat::terminal::counted::{counted, plural};
use nanochat::text::clean::{CleanOptions, Cleaned, REPORT_FILE, clean};

use super::{print_odd, print_written, progress_bar};

#[derive(Debug, clap::Args)]
pub struct CleanArgs {
    /// Files, or folders (with all their subfolders): .txt, .md, .json, .jsonl, .csv, .tsv (also .gz, .zst), .parquet
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The new folder of shards [default: base_data in the base directory]
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: CleanOptions,
}

pub fn run(args: &CleanArgs, base_dir: &Path) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| base_dir.join("base_data"));
    let progress = progress_bar("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")?;
    let start = Instant::now();
    let report = clean(&args.paths, &out, &args.options, &progress)?;
    progress.finish_and_clear();
    print_report(&report, start.elapsed().as_secs_f64());
    print_written(&report.written, &out);
    print_odd(&report.passed, &report.odd);
    println!("samples of what was dropped are in {}", out.join(REPORT_FILE).display());
    Ok(())
}

fn print_report(report: &Cleaned, seconds: f64) {
    let share = |n: usize| 100.0 * n as f64 / report.documents.max(1) as f64;
    let megabytes = report.bytes as f64 / 1e6;
    println!(
        "read      {:>10} {} in {}, {megabytes:.1} MB in {seconds:.1} s ({:.1} MB/s)",
        report.documents,
        plural(report.documents, "document"),
        counted(report.files, "file"),
        megabytes / seconds
    );
    for (reason, dropped) in &report.dropped {
        let (n, megabytes) = (dropped.documents, dropped.bytes as f64 / 1e6);
        println!("dropped   {n:>10} {:>6.2} % {megabytes:>9.1} MB  {}", share(n), reason.name());
    }
    for (language, [documents, chars]) in &report.languages {
        println!("kept      {documents:>10} {:>6.2} %  {language}, {chars} characters", share(*documents));
    }
    if report.lines_dropped > 0 {
        println!("removed   {:>10} lines of symbols alone", report.lines_dropped);
    }
    if let Some(documents) = report.full_after {
        eprintln!(
            "warning: the memory for duplicates was full after {documents} documents; later ones were only \
             compared with these (--dedup-memory)"
        );
    }
}
