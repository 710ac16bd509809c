//! The sources of downloads: public data sets by name, repositories of a Hugging Face hub, plain URLs.

use std::path::{Component, Path};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

use super::checksum::Checksum;
use super::file::Remote;
use super::http::HttpClient;

/// The most pages of a list that are read; a hub puts a thousand files on each.
const MAX_PAGES: usize = 1_000;

/// A public data set with its name in the guides.
pub struct Set {
    pub name: &'static str,
    pub address: &'static str,
    /// The folder below the base folder where commands look for it.
    pub folder: &'static str,
    /// Whether it is pretraining shards, of which a few are enough.
    pub is_shards: bool,
}

const fn shards(name: &'static str, address: &'static str) -> Set {
    Set { name, address, folder: "base_data", is_shards: true }
}

const fn task(name: &'static str, address: &'static str, folder: &'static str) -> Set {
    Set { name, address, folder, is_shards: false }
}

pub const SETS: [Set; 12] = [
    shards("fineweb-edu", "hf:karpathy/fineweb-edu-100b-shuffle"),
    shards("climbmix", "hf:karpathy/climbmix-400b-shuffle"),
    // Fineweb-Edu-Chinese V2.1 of OpenCSG, converted to nanochat's shards.
    shards("fineweb-edu-zh", "hf:grimlee/fineweb-edu-Chinese-v2.1-shuffle"),
    task("smoltalk", "hf:HuggingFaceTB/smol-smoltalk", "task_data/smol-smoltalk"),
    task("mmlu", "hf:cais/mmlu", "task_data/mmlu"),
    task("gsm8k", "hf:openai/gsm8k", "task_data/gsm8k"),
    task("arc", "hf:allenai/ai2_arc", "task_data/ai2_arc"),
    task("humaneval", "hf:openai/openai_humaneval", "task_data/openai_humaneval"),
    task("ceval", "hf:ceval/ceval-exam", "task_data/ceval-exam"),
    task("cmmlu", "hf:haonan-li/cmmlu", "task_data/cmmlu"),
    task("eval-bundle", "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip", ""),
    task(
        "words",
        "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt",
        "task_data",
    ),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    Dataset,
    Model,
}

/// A file of a repository: its path below the repository's folder, and its download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    pub path: String,
    pub remote: Remote,
}

/// Parses `owner/name` and an optional `@revision`.
pub fn parse_repo(text: &str) -> anyhow::Result<(String, String)> {
    let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
    let fine = |part: &str| {
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        plain && !part.is_empty() && !part.starts_with('.')
    };
    match repo.split_once('/') {
        Some((owner, name)) if fine(owner) && fine(name) && fine(revision) => {
            Ok((repo.into(), revision.into()))
        }
        _ => bail!("{text:?} is not a repository such as hf:owner/name or hf:owner/name@revision"),
    }
}

/// Returns all files of a repository, by path.
pub fn list(
    client: &HttpClient,
    endpoint: &str,
    kind: RepoKind,
    repo: &str,
) -> anyhow::Result<Vec<RepoFile>> {
    let (repo, revision) = parse_repo(repo)?;
    let (api, files) = match kind {
        RepoKind::Dataset => ("datasets", format!("{endpoint}/datasets/{repo}")),
        RepoKind::Model => ("models", format!("{endpoint}/{repo}")),
    };
    let mut page = Some(format!("{endpoint}/api/{api}/{repo}/tree/{revision}?recursive=true"));
    let (mut found, mut pages) = (Vec::new(), 0);
    while let Some(url) = page {
        pages += 1;
        if pages > MAX_PAGES {
            bail!("the list of files of {repo} does not end after {MAX_PAGES} pages");
        }
        let (text, next) = client.text(&url).map_err(|reason| anyhow!(reason))?;
        let entries: Vec<Value> = serde_json::from_str(&text)
            .with_context(|| format!("the list of files of {repo} is not what a hub answers"))?;
        for entry in entries.iter().filter(|entry| entry["type"] == "file") {
            found.push(file_of(entry, &files, &revision).with_context(|| format!("in the list of {repo}"))?);
        }
        page = next.filter(|_| !entries.is_empty());
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn file_of(entry: &Value, files: &str, revision: &str) -> anyhow::Result<RepoFile> {
    let path = entry["path"].as_str().context("a file has no path")?;
    // The path is used on this disk, so it must not leave the folder.
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.is_empty() || path.contains(['\\', '\0']) {
        bail!("{path:?} is not a path inside a folder");
    }
    let checksum = match entry["lfs"]["oid"].as_str() {
        Some(oid) => Some(Checksum::Sha256(oid.trim_start_matches("sha256:").to_lowercase())),
        None => entry["oid"].as_str().map(|oid| Checksum::GitBlob(oid.to_lowercase())),
    };
    let url = format!("{files}/resolve/{revision}/{}", escaped(path));
    let size = entry["lfs"]["size"].as_u64().or(entry["size"].as_u64());
    Ok(RepoFile { path: path.into(), remote: Remote { url, size, checksum } })
}

/// Percent-encodes all characters that a URL's path may not contain.
fn escaped(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    path.bytes().map(byte).collect()
}

/// Returns the first `n` parquet files and the last, which is for validation.
pub fn first_shards(files: Vec<RepoFile>, n: usize) -> Vec<RepoFile> {
    let shards: Vec<RepoFile> = files.into_iter().filter(|file| file.path.ends_with(".parquet")).collect();
    let last = shards.len().saturating_sub(1);
    shards.into_iter().enumerate().filter(|(i, _)| *i < n || *i == last).map(|(_, file)| file).collect()
}
