//! `nanochat data download` and `nanochat download model`: reliable downloads over bad networks.

mod checksum;
mod file;
mod http;
mod hub;
mod proxy;
mod unpack;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nanochat::terminal::command_line::CommandLine;
use nanochat::terminal::flag_values;

use file::{Remote, fetch};
use http::{HttpClient, shown};
use hub::{RepoFile, RepoKind, SETS, first_shards, list};
use proxy::Proxies;
use unpack::unzip;

/// The wait before the first retry after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Download a model for `nanochat chat -m`
#[derive(Debug, clap::Subcommand)]
pub enum DownloadCommand {
    /// A Hugging Face model repository
    Model {
        /// hf:owner/name, or hf:owner/name@revision
        repo: String,
        /// The folder of the model [default: models/owner--name in the base directory]
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        network: Network,
    },
}

#[derive(Debug, clap::Args)]
pub struct DownloadArgs {
    /// Sets (fineweb-edu, climbmix, fineweb-edu-zh: shards for base_data; smoltalk, mmlu, gsm8k, arc, humaneval, ceval,
    /// cmmlu, eval-bundle, words: in the folders where the tasks look for them), hf:owner/name[@revision], or URLs
    #[arg(required = true, value_name = "SET|hf:owner/name|URL")]
    what: Vec<String>,
    /// Download only the first N parquet files of a repository, and the last, which is for validation
    #[arg(short = 'n', value_name = "N", value_parser = flag_values::amount)]
    shards: Option<usize>,
    /// Download only the files of a repository whose path contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Folder to download to [default: the set's own, such as base_data; else downloads/NAME, in the base directory]
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    network: Network,
}

#[derive(Debug, clap::Args)]
pub struct Network {
    /// Another Hugging Face hub, such as a mirror
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL", default_value = "https://huggingface.co")]
    mirror: String,
    /// Concurrent downloads
    #[arg(short, long, value_parser = flag_values::whole::<u8, 1, 32>, default_value_t = 4)]
    jobs: u8,
    /// Seconds without data after which a connection is closed and tried again
    #[arg(long, value_parser = flag_values::whole::<u64, 1, 3_600>, default_value_t = 30)]
    timeout: u64,
}

/// A file to download, and its destination.
struct DownloadItem {
    remote: Remote,
    path: PathBuf,
    /// Whether it is an archive to unpack.
    unpack: bool,
}

pub fn run_data(args: &DownloadArgs, base_dir: &Path) -> anyhow::Result<()> {
    let endpoint = args.network.mirror.trim_end_matches('/');
    let client = args.network.client()?;
    let mut items = Vec::new();
    for what in &args.what {
        let set = SETS.iter().find(|set| set.name == what);
        let address = set.map_or(what.as_str(), |set| set.address);
        let is_shards = set.is_some_and(|set| set.is_shards);
        let folder = |other: String| {
            let default = || base_dir.join(set.map_or(other, |set| set.folder.to_string()));
            args.out.clone().unwrap_or_else(default)
        };
        let item = |path: PathBuf, remote: Remote| {
            let unpack = set.is_some() && path.extension().is_some_and(|extension| extension == "zip");
            DownloadItem { remote, path, unpack }
        };
        if let Some(repo) = address.strip_prefix("hf:") {
            let mut files = list(&client, endpoint, RepoKind::Dataset, repo)?;
            files.retain(|file| args.only.as_ref().is_none_or(|text| file.path.contains(text.as_str())));
            if is_shards || args.shards.is_some() {
                files = first_shards(files, args.shards.unwrap_or(usize::MAX));
            }
            if files.is_empty() {
                bail!("{what} has no such files");
            }
            let folder = folder(format!("downloads/{}", folder_name(repo)));
            items.extend(files.into_iter().map(|file| item(folder.join(file.path), file.remote)));
        } else if address.starts_with("http://") || address.starts_with("https://") {
            let plain = shown(address);
            let name = plain.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next());
            let name = name.filter(|name| !["", ".", ".."].contains(name));
            let name = name.with_context(|| format!("{plain} does not name a file"))?;
            let remote = Remote { url: address.into(), size: None, checksum: None };
            items.push(item(folder("downloads".into()).join(name), remote));
        } else {
            let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
            bail!("{what} is neither a set ({}) nor hf:owner/name nor an address", names.join(", "));
        }
    }
    fetch_all(&client, items, args.network.jobs)
}

pub fn run(command: &DownloadCommand, base_dir: &Path) -> anyhow::Result<()> {
    let DownloadCommand::Model { repo, out, network } = command;
    let client = network.client()?;
    let name = repo.strip_prefix("hf:").unwrap_or(repo);
    let files = list(&client, network.mirror.trim_end_matches('/'), RepoKind::Model, name)?;
    let folder = out.clone().unwrap_or_else(|| base_dir.join("models").join(folder_name(name)));
    let item =
        |file: RepoFile| DownloadItem { path: folder.join(file.path), remote: file.remote, unpack: false };
    let items = files.into_iter().map(item);
    fetch_all(&client, items.collect(), network.jobs)?;
    println!("now run `{}`", CommandLine::new(["chat", "-m"]).arg(&folder));
    Ok(())
}

impl Network {
    fn client(&self) -> anyhow::Result<HttpClient> {
        let variable = |name: &str| std::env::var(name).ok();
        let token =
            variable("HF_TOKEN").map(|token| token.trim().to_string()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            bail!("HF_TOKEN holds more than a token: spaces, line ends or other letters");
        }
        let proxies = Proxies::of(variable).map_err(anyhow::Error::msg)?;
        let silence = Duration::from_secs(self.timeout);
        HttpClient::new(&self.mirror, token, proxies, [silence, PAUSE]).map_err(anyhow::Error::msg)
    }
}

/// Returns `owner/name@revision` as one folder name.
fn folder_name(repo: &str) -> String {
    repo.replace('/', "--")
}

/// Downloads all files, several at a time. Files that fail do not stop the others.
fn fetch_all(client: &HttpClient, items: Vec<DownloadItem>, jobs: u8) -> anyhow::Result<()> {
    let (count, total) = (items.len(), items.iter().map(|item| item.remote.size).sum::<Option<u64>>());
    let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    let progress = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
    progress.set_length(total.unwrap_or(0));
    let queue = Mutex::new(VecDeque::from(items));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..usize::from(jobs).min(count) {
            scope.spawn(|| {
                let next = || queue.lock().expect("no code panics while it holds this lock").pop_front();
                while let Some(DownloadItem { remote, path, unpack }) = next() {
                    let fetched = fetch(client, &remote, &path, &progress);
                    match fetched.and_then(|()| if unpack { unzip(&path) } else { Ok(()) }) {
                        Ok(()) => progress.suspend(|| eprintln!("{}", path.display())),
                        Err(error) => failures.lock().expect("as above").push(error),
                    }
                }
            });
        }
    });
    progress.finish_and_clear();
    let mut failures = failures.into_inner().expect("as above");
    match failures.len() {
        0 if count == 1 => println!("the file is there"),
        0 => println!("{count} files are there"),
        1 => return Err(failures.remove(0)),
        n => return Err(failures.remove(0).context(format!("{n} of {count} files failed, the first"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
