//! Describes where a run takes place: code, machine, software.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

/// Returns the facts by name, without those that this system does not provide.
pub fn environment() -> Map<String, Value> {
    let facts = [
        ("nanochat", Some(env!("CARGO_PKG_VERSION").to_string())),
        ("git commit", git_commit()),
        ("code", code_size()),
        ("compiler", Some(env!("NANOCHAT_RUSTC").to_string()).filter(|version| !version.is_empty())),
        ("system", Some(format!("{}, {}", system(), std::env::consts::ARCH))),
        ("processor", line_value("/proc/cpuinfo", "model name", ':')),
        ("cores", std::thread::available_parallelism().ok().map(|cores| cores.to_string())),
        ("memory", memory()),
        ("GPU", gpus()),
        ("driver", line_value("/proc/driver/nvidia/version", "NVRM version", ':').map(version)),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name.to_string(), Value::from(fact?)))).collect()
}

fn system() -> String {
    line_value("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_string())
}

fn memory() -> Option<String> {
    Some(format!("{:.1} GiB", memory_bytes()? / f64::from(1 << 30)))
}

/// Returns `580.159.04` from `NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build`.
fn version(line: String) -> String {
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    line.split_whitespace().find(is_version).map_or(line.clone(), String::from)
}

/// Returns the names of NVIDIA GPUs, as the driver reports them.
fn gpus() -> Option<String> {
    let entries = fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let model = |entry: fs::DirEntry| {
        line_value(entry.path().join("information").to_str().unwrap_or_default(), "Model", ':')
    };
    let mut models: Vec<String> = entries.flatten().filter_map(model).collect();
    models.sort();
    let first = models.first()?.clone();
    let alike = models.iter().all(|model| *model == first);
    Some(if alike { format!("{} × {first}", models.len()) } else { models.join(", ") })
}

/// Returns this machine's memory in bytes, if the system reports it.
pub fn memory_bytes() -> Option<f64> {
    let kibibytes = line_value("/proc/meminfo", "MemTotal", ':')?;
    Some(1024.0 * kibibytes.trim_end_matches("kB").trim().parse::<f64>().ok()?)
}

/// Returns the value on the first line of `path` that starts with `key`.
fn line_value(path: &str, key: &str, separator: char) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().find(|line| line.starts_with(key))?.split_once(separator)?;
    Some(value.trim().trim_matches('"').to_string())
}

/// Runs git in the working folder, if that is a checkout of nanochat, and returns its output.
fn git(arguments: &[&str]) -> Option<String> {
    let run = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_string())
    };
    let top = run(&["rev-parse", "--show-toplevel"])?;
    let ours = Path::new(&top).join("crates/nanochat/Cargo.toml").exists();
    if ours { run(&[&["-C", &top], arguments].concat()) } else { None }
}

fn git_commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Some(if changed { format!("{commit} with changes") } else { commit })
}

/// Counts the files and lines that git tracks in the project's languages.
fn code_size() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let files = git(&["ls-files", "*.rs", "*.cu", "*.cuh"])?;
    let lines: usize = files
        .lines()
        .filter_map(|file| fs::read_to_string(Path::new(&top).join(file)).ok())
        .map(|text| text.lines().count())
        .sum();
    Some(format!("{lines} lines in {} files", files.lines().count()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn something_is_known_of_every_machine() {
        let facts = super::environment();
        for name in ["nanochat", "compiler", "system", "cores"] {
            assert!(facts[name].as_str().is_some_and(|fact| !fact.is_empty()), "{name}: {facts:?}");
        }
        let line = "NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (user@host)";
        assert_eq!(super::version(line.into()), "580.159.04");
    }
}
