//! A mixture as it is written down: in a TOML file or in flags.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;

use super::{MixtureError, bad};
use crate::reward::Reward;

/// Mixtures by the name that `--mixture` takes and the stage.
const BUILT_IN: [(&str, &str, &str); 6] = [
    ("world", "mid", include_str!("world-mid.toml")),
    ("world", "sft", include_str!("world-sft.toml")),
    ("world", "rl", include_str!("world-rl.toml")),
    ("nanochat", "mid", include_str!("nanochat-mid.toml")),
    ("nanochat", "sft", include_str!("nanochat-sft.toml")),
    ("nanochat", "rl", include_str!("nanochat-rl.toml")),
];

/// A mixture as it is written down.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
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
    /// The first conversation to take.
    #[serde(default)]
    pub start: usize,
    /// How many to take from there.
    pub limit: Option<usize>,
    /// How often an epoch goes through them; the part after the point takes the first of them once more.
    #[serde(default = "one")]
    pub repeat: f64,
    /// How much each token counts in the loss.
    #[serde(default = "one")]
    pub weight: f64,
    /// How reinforcement learning grades answers.
    #[serde(default)]
    pub reward: Reward,
    /// In a mixture of several data sets: a file that is not there is left out instead of being an error.
    #[serde(default)]
    pub optional: bool,
}

fn one() -> f64 {
    1.0
}

/// A built-in mixture, whose files lie in `base_dir`, or a user's, whose files lie beside it.
pub fn read_recipe(name: &str, stage: &str, base_dir: &Path) -> Result<(Recipe, PathBuf), MixtureError> {
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
    let recipe: Recipe = toml::from_str(&text).map_err(|error| bad(name, one_line(&error)))?;
    Ok((recipe, folder))
}

/// Where in the file and what, without the picture that a parser draws.
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
            let recipe: Recipe =
                toml::from_str(text).unwrap_or_else(|error| panic!("{name} {stage}: {error}"));
            assert!(!recipe.train.is_empty() && !recipe.val.is_empty());
        }
    }
}
