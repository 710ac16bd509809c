//! The written form of a mixture: a TOML file or flags.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;

use super::{MixtureError, bad};
use crate::chat::reward::Reward;

/// The built-in mixtures: the name for `--mixture`, the stage and the text.
const BUILT_IN: [(&str, &str, &str); 6] = [
    ("world", "mid", include_str!("world-mid.toml")),
    ("world", "sft", include_str!("world-sft.toml")),
    ("world", "rl", include_str!("world-rl.toml")),
    ("nanochat", "mid", include_str!("nanochat-mid.toml")),
    ("nanochat", "sft", include_str!("nanochat-sft.toml")),
    ("nanochat", "rl", include_str!("nanochat-rl.toml")),
];

/// The written form of a mixture.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureFile {
    #[serde(default)]
    pub train: Vec<Entry>,
    #[serde(default)]
    pub val: Vec<Entry>,
}

/// One task of a mixture.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A file or the name of a task.
    pub data: String,
    /// The index of the first conversation to use.
    #[serde(default)]
    pub start: usize,
    /// The number of conversations to use from there.
    pub limit: Option<usize>,
    /// The number of times that an epoch repeats them; the fractional part repeats the first of them once more.
    #[serde(default = "one")]
    pub repeat: f64,
    /// The factor of each token's loss.
    #[serde(default = "one")]
    pub weight: f64,
    /// The way that reinforcement learning grades answers.
    #[serde(default)]
    pub reward: Reward,
    /// Whether a missing file is skipped instead of an error, for mixtures of several data sets.
    #[serde(default)]
    pub optional: bool,
}

fn one() -> f64 {
    1.0
}

/// A built-in mixture, whose files lie in `base_dir`, or a user's, whose files lie beside it.
pub fn read_recipe(name: &str, stage: &str, base_dir: &Path) -> Result<(MixtureFile, PathBuf), MixtureError> {
    let known = BUILT_IN.iter().find(|(known, of, _)| *known == name && *of == stage);
    let (text, folder) = match known {
        Some((_, _, text)) => (text.to_string(), base_dir.to_path_buf()),
        None => match fs::read_to_string(name) {
            Ok(text) => (text, Path::new(name).parent().unwrap_or(Path::new("")).to_path_buf()),
            Err(error) => {
                return Err(bad(name, format!("{error}; it may be world, nanochat or a TOML file")));
            }
        },
    };
    let recipe: MixtureFile = toml::from_str(&text).map_err(|error| bad(name, one_line(&error)))?;
    Ok((recipe, folder))
}

/// Returns the position and message of a parse error, without the parser's excerpt.
pub fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let place = text.lines().next().unwrap_or_default().replace("TOML parse error at ", "");
    format!("{place}: {}", error.message().replace('\n', " "))
}

/// `chat.jsonl,limit=1000,repeat=2`
pub fn parse_flag(flag: &str) -> Result<Entry, MixtureError> {
    let mut words = flag.split(',');
    let data = words.next().unwrap_or_default().to_string();
    let mut entry = Entry {
        data,
        start: 0,
        limit: None,
        repeat: 1.0,
        weight: 1.0,
        reward: Reward::default(),
        optional: false,
    };
    for word in words {
        let wrong = || {
            bad(
                flag,
                format!("{word:?} is none of start=N, limit=N, repeat=X, weight=X, reward=number|exact"),
            )
        };
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        match name {
            "start" => entry.start = value.parse().map_err(|_| wrong())?,
            "limit" => entry.limit = Some(value.parse().map_err(|_| wrong())?),
            "repeat" => entry.repeat = value.parse().map_err(|_| wrong())?,
            "weight" => entry.weight = value.parse().map_err(|_| wrong())?,
            "reward" => entry.reward = Reward::from_str(value, false).map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_mixtures_parse() {
        for (name, stage, text) in BUILT_IN {
            let recipe: MixtureFile =
                toml::from_str(text).unwrap_or_else(|error| panic!("{name} {stage}: {error}"));
            assert!(!recipe.train.is_empty() && !recipe.val.is_empty());
        }
    }
}
