//! Rewrites the command line before clap parses it: `--max_seq_len` becomes `--max-seq-len`, and `--config run.toml`
//! becomes the flags in that file.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nanochat::chat::mixture::one_line;
use toml::{Table, Value};

/// Rewrites the arguments. Flags on the command line override the file's.
pub fn expand(args: Vec<OsString>) -> Result<Vec<OsString>> {
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
        match after(&arg, "--config").as_deref().map(OsStr::as_encoded_bytes) {
            Some(b"") => from_files.extend(read(args.next().context("--config wants a file")?.as_ref())?),
            Some([b'=', ..]) => {
                from_files.extend(read(after(&arg, "--config=").unwrap_or_default().as_ref())?);
            }
            _ => expanded.push(arg),
        }
    }
    let given: HashSet<String> = expanded.iter().filter_map(|arg| flag_name(arg)).collect();
    let end = expanded.iter().position(|arg| arg == "--").unwrap_or(expanded.len());
    let added = from_files.into_iter().filter(|(name, _)| !given.contains(name));
    let added = added.flat_map(|(_, flags)| flags).map(OsString::from);
    expanded.splice(end..end, added.collect::<Vec<_>>());
    Ok(expanded)
}

/// Returns the rest of an argument after `start`; the rest may be a path of any bytes.
fn after(arg: &OsStr, start: &str) -> Option<OsString> {
    let rest = arg.as_encoded_bytes().strip_prefix(start.as_bytes())?;
    // SAFETY: the bytes are those of an OsStr, split right after a part that is UTF-8.
    Some(unsafe { OsStr::from_encoded_bytes_unchecked(rest) }.to_owned())
}

/// Returns the name of a flag, before any `=`.
fn flag_name(arg: &OsStr) -> Option<String> {
    let flag = arg.as_encoded_bytes().strip_prefix(b"--")?;
    let name = flag.split(|byte| *byte == b'=').next().unwrap_or(flag);
    String::from_utf8(name.to_vec()).ok()
}

fn hyphens(arg: OsString) -> OsString {
    let Some(name) = flag_name(&arg).filter(|name| name.contains('_')) else { return arg };
    let mut flag = OsString::from(format!("--{}", name.replace('_', "-")));
    flag.push(after(&arg, &format!("--{name}")).unwrap_or_default());
    flag
}

/// Reads the flags of a TOML file, by name: `depth = 4` becomes `--depth=4`, `resume = true` becomes `--resume`, and a
/// list repeats its flag.
fn read(path: &Path) -> Result<Vec<(String, Vec<String>)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let path = &path.display().to_string();
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
        let expanded = expand(args.iter().map(OsString::from).collect()).unwrap();
        expanded.into_iter().map(|arg| arg.into_string().unwrap()).collect()
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
        let args = |config: &str| expand(vec!["nanochat".into(), format!("--config={config}").into()]);
        assert!(args("/no/such.toml").unwrap_err().to_string().contains("/no/such.toml"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bad.toml");
        for bad in ["depth", "depth = {a = 1}", "d = 2001-01-01"] {
            std::fs::write(&file, bad).unwrap();
            assert!(args(file.to_str().unwrap()).unwrap_err().to_string().contains("bad.toml"), "{bad}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn paths_of_any_bytes_stay() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
        let args = vec![bytes(b"x"), bytes(b"--base_dir=a_\xff'\n"), bytes(b"--out"), bytes(b"b_\xff")];
        let want = [bytes(b"x"), bytes(b"--base-dir=a_\xff'\n"), bytes(b"--out"), bytes(b"b_\xff")];
        assert_eq!(expand(args).unwrap(), want);
    }
}
