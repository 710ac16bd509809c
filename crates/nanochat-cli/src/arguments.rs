//! The command line before clap sees it: `--max_seq_len` is `--max-seq-len`, and `--config run.toml`
//! stands for the flags in that file.

use std::collections::HashSet;

use anyhow::{Context, Result, anyhow, bail};
use nanochat::mixture::one_line;
use toml::{Table, Value};

/// Rewrites the arguments. Flags that are also on the command line win over the file's.
pub fn expand(args: Vec<String>) -> Result<Vec<String>> {
    let mut expanded = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    let mut from_files = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            expanded.push(arg);
            expanded.extend(args);
            break;
        }
        let arg = hyphens(arg);
        match arg.strip_prefix("--config") {
            Some("") => from_files.extend(read(&args.next().context("--config wants a file")?)?),
            Some(file) if file.starts_with('=') => from_files.extend(read(&file[1..])?),
            _ => expanded.push(arg),
        }
    }
    let given: HashSet<String> = expanded.iter().filter_map(|arg| flag_name(arg)).collect();
    let end = expanded.iter().position(|arg| arg == "--").unwrap_or(expanded.len());
    let added = from_files.into_iter().filter(|(name, _)| !given.contains(name));
    expanded.splice(end..end, added.flat_map(|(_, flags)| flags).collect::<Vec<_>>());
    Ok(expanded)
}

fn hyphens(arg: String) -> String {
    match arg.strip_prefix("--").map(|flag| flag.split_once('=')) {
        Some(Some((name, value))) => format!("--{}={value}", name.replace('_', "-")),
        Some(None) => format!("--{}", arg[2..].replace('_', "-")),
        None => arg,
    }
}

fn flag_name(arg: &str) -> Option<String> {
    let flag = arg.strip_prefix("--")?;
    Some(flag.split_once('=').map_or(flag, |(name, _)| name).to_string())
}

/// The flags of a TOML file, by name: `depth = 4` is `--depth=4`, `resume = true` is `--resume`, and a
/// list repeats its flag.
fn read(path: &str) -> Result<Vec<(String, Vec<String>)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
    let table: Table = text.parse().map_err(|error| anyhow!("{path} is not TOML: {}", one_line(&error)))?;
    let mut flags = Vec::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let arguments = match value {
            Value::Boolean(true) => vec![format!("--{name}")],
            Value::Boolean(false) => vec![],
            Value::Array(values) => values
                .iter()
                .map(|v| Ok(format!("--{name}={}", scalar(path, &key, v)?)))
                .collect::<Result<_>>()?,
            value => vec![format!("--{name}={}", scalar(path, &key, &value)?)],
        };
        flags.push((name, arguments));
    }
    Ok(flags)
}

fn scalar(path: &str, key: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Float(_) => Ok(value.to_string()),
        _ => bail!("{path}: {key} must be a number, a string, true, false, or a list of those"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(args: &[&str]) -> Vec<String> {
        expand(args.iter().map(|arg| arg.to_string()).collect()).unwrap()
    }

    #[test]
    fn underscores_in_flags_become_hyphens_and_values_stay() {
        let args =
            expanded(&["nanochat", "train", "base", "--max_seq_len=5", "--model_tag", "my_tag", "a_b"]);
        assert_eq!(args[3..], ["--max-seq-len=5", "--model-tag", "my_tag", "a_b"]);
        assert_eq!(expanded(&["x", "--", "--a_b"]), ["x", "--", "--a_b"]);
    }

    #[test]
    fn a_file_gives_flags_and_the_command_line_wins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.toml");
        let toml = "depth = 6\nmax_seq_len = 128\nmatrix_lr = 0.01\nresume = true\noverwrite = false\nval_data = ['a=b', 'c=d']";
        std::fs::write(&file, toml).unwrap();
        let config = file.to_str().unwrap();
        let mut args = expanded(&["nanochat", "train", "base", "--depth", "4", "--config", config]);
        assert_eq!(args[..5], ["nanochat", "train", "base", "--depth", "4"]);
        args[5..].sort();
        let rest = ["--matrix-lr=0.01", "--max-seq-len=128", "--resume", "--val-data=a=b", "--val-data=c=d"];
        assert_eq!(args[5..], rest);
    }

    #[test]
    fn files_that_are_missing_or_no_toml_are_named() {
        let args = |config: &str| expand(vec!["nanochat".into(), format!("--config={config}")]);
        assert!(args("/no/such.toml").unwrap_err().to_string().contains("/no/such.toml"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bad.toml");
        for bad in ["depth", "depth = {a = 1}", "d = 2001-01-01"] {
            std::fs::write(&file, bad).unwrap();
            assert!(args(file.to_str().unwrap()).unwrap_err().to_string().contains("bad.toml"), "{bad}");
        }
    }
}
