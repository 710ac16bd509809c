//! The keys of a server, how they are read, and the clients they tell apart.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::options::ServeOptions;

/// Who may ask a server, and for what. Without keys everybody may.
#[derive(Default)]
pub struct Keys {
    /// The keys that may request answers.
    pub clients: Vec<String>,
    /// The keys that only read the exact counts in `/stats` and `/metrics`.
    pub watchers: Vec<String>,
    /// Whether all keys share the cached prompt prefixes.
    pub share_cache: bool,
}

impl Keys {
    /// Reads the keys that the options name.
    pub fn read(options: &ServeOptions) -> Result<Keys> {
        let clients = read_keys(options.api_keys.as_deref(), options.listed_keys.as_deref())?;
        let watchers = read_keys(options.metrics_keys.as_deref(), None)?;
        ensure!(
            watchers.is_empty() || !clients.is_empty(),
            "--metrics-keys needs --api-keys: without keys everybody may read everything"
        );
        Ok(Keys { clients, watchers, share_cache: options.share_cache })
    }
}

/// One who asks, by which requests are counted and limited.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    Key(usize),
    /// A key for `/stats` and `/metrics` alone.
    Watcher,
    Address(IpAddr),
}

/// Reads keys from a file, one a line, and from a text with commas between them (an environment variable). A file
/// without keys and a key of less than 8 characters are errors.
fn read_keys(file: Option<&Path>, listed: Option<&str>) -> Result<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    if let Some(file) = file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.map(String::from));
        ensure!(!keys.is_empty(), "{} has no keys; one a line is wanted", file.display());
    }
    let listed = listed.unwrap_or_default().split(',').map(str::trim);
    keys.extend(listed.filter(|key| !key.is_empty()).map(String::from));
    let short = keys.iter().any(|key| key.len() < 8);
    ensure!(!short, "a key of less than 8 characters is soon guessed; make longer ones");
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_a_file_and_from_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "# mine\nfirst-key-1\n\n second-key-2 \n").unwrap();
        let keys = read_keys(Some(&file), Some("third-key-3,")).unwrap();
        assert_eq!(keys, ["first-key-1", "second-key-2", "third-key-3"]);
        assert!(read_keys(None, Some("short")).is_err());
        std::fs::write(&file, "# none\n").unwrap();
        assert!(read_keys(Some(&file), None).unwrap_err().to_string().contains("keys"));
    }
}
