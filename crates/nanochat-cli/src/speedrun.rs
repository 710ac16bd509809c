//! `nanochat speedrun`: everything from nothing to a chat model. Each stage is a plain command that is
//! printed before it runs; finished ones are skipped when the speedrun is run again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nanochat::dataset::DataError;
use nanochat::{atomic_file, report};
use nanochat_tensor::DeviceChoice;
use serde::{Deserialize, Serialize};

use crate::Cli;

#[derive(clap::Args)]
pub struct SpeedrunCommand {
    /// How much to do
    #[arg(long, value_enum, default_value_t = Preset::Laptop)]
    preset: Preset,
    /// The assistant's name
    #[arg(long, default_value = "nanochat")]
    name: String,
    /// Of the built-in world, the initial weights and every random choice
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    /// Language of the report's own words
    #[arg(long, value_enum, default_value_t)]
    lang: report::Lang,
    /// End with finetuning
    #[arg(long)]
    no_rl: bool,
}

const DEFAULT_SEED: u64 = 42;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A small model of the built-in world, in about ten minutes on two cores
    Laptop,
    /// Every stage with hardly any training, in seconds: shows that all works
    Smoke,
}

/// Each stage is a line of what one would type after `nanochat`.
const LAPTOP: &str = "\
tok train --vocab-size 3072
train base --depth 3 --max-seq-len 256 --device-batch-size 16 --total-batch-size 4096 --num-iterations 700 --eval-every 200 --sample-every 0 --save-every 100 --sample-prompt 'Luna lives in' --sample-prompt 'On the market square' --sample-prompt '露娜住在' --sample-prompt '今天早上'
train mid --model-tag d3 --eval-every 100 --save-every 100
train sft --model-tag d3 --device-batch-size 32 --num-epochs 0.5 --init-lr-frac 0.5 --eval-every 100 --save-every 100
eval chat
train rl --model-tag d3 --device-batch-size 32 --examples-per-step 8 --num-samples 8 --num-iterations 60 --max-new-tokens 64 --init-lr-frac 0.1 --eval-every 0 --eval-examples 200 --eval-samples 4 --save-every 20
eval chat --source rl";

const SMOKE: &str = "\
tok train --vocab-size 512
train base --depth 2 --max-seq-len 128 --device-batch-size 4 --total-batch-size 512 --num-iterations 20 --eval-every 10 --eval-tokens 2048
train mid --model-tag d2 --num-iterations 10 --eval-tokens 1024 --save-every 5
train sft --model-tag d2 --device-batch-size 4 --target-examples-per-step 8 --num-iterations 10 --save-every 5
eval chat --questions 4
train rl --model-tag d2 --examples-per-step 2 --num-samples 4 --num-iterations 10 --max-new-tokens 16 --eval-examples 8 --eval-samples 2
eval chat --source rl --questions 4";

/// What has been done in a base folder.
#[derive(Serialize, Deserialize)]
struct Record {
    preset: Preset,
    name: String,
    #[serde(default = "default_seed")]
    seed: u64,
    /// Seconds by finished command.
    finished: BTreeMap<String, f64>,
    /// The command under way. Found by the next process, it was killed.
    #[serde(default)]
    started: Option<String>,
}

fn default_seed() -> u64 {
    DEFAULT_SEED
}

pub fn run(
    command: &SpeedrunCommand,
    base_dir: &Path,
    device: DeviceChoice,
    gpus: Option<usize>,
) -> Result<()> {
    let path = base_dir.join("speedrun.json");
    let mut record = open(&path, command)?;
    if record.finished.is_empty() {
        report::reset(base_dir, None)?;
    }
    for stage in &stages(command) {
        if record.finished.contains_key(stage) {
            eprintln!("\n$ nanochat {stage}\ndone before");
            continue;
        }
        eprintln!("\n$ nanochat {stage}");
        let started = Instant::now();
        let was_killed = record.started.replace(stage.clone()).as_ref() == Some(stage);
        save(&record, &path)?;
        let done = match run_stage(stage, base_dir, device, gpus) {
            // The kill came when the data was complete.
            Err(error) if was_killed && is_already_there(&error) => Ok(()),
            done => done,
        };
        record.started = None;
        if done.is_ok() {
            record.finished.insert(stage.clone(), started.elapsed().as_secs_f64());
        }
        done.and(save(&record, &path))?;
    }
    let total = record.finished.values().sum::<f64>();
    let (folder, _) = report::generate(base_dir, command.lang)?;
    let report = folder.join(report::HTML_FILE);
    eprintln!("\nall stages took {:.1} minutes; the report is {}", total / 60.0, report.display());
    eprintln!("now run `nanochat chat`");
    Ok(())
}

/// The lines to run, one after the other.
fn stages(command: &SpeedrunCommand) -> Vec<String> {
    let (make, stages) = match command.preset {
        Preset::Laptop => ("data make", LAPTOP),
        Preset::Smoke => ("data make --documents 400 --conversations 300", SMOKE),
    };
    let seed = match command.seed {
        DEFAULT_SEED => String::new(),
        seed => format!(" --seed {seed}"),
    };
    let make = format!("{make} --name {}{seed}", quoted(&command.name));
    let seeded = |stage: &str| match stage.starts_with("train ") {
        true => format!("{stage}{seed}"),
        false => stage.to_string(),
    };
    let wanted =
        |stage: &&str| !(command.no_rl && (stage.contains("train rl") || stage.contains("--source rl")));
    std::iter::once(make).chain(stages.lines().filter(wanted).map(seeded)).collect()
}

/// Parses the line as a shell would have passed it and runs it in this process, or with `gpus` in ranks that end with it: one
/// kill ends it all, one Ctrl-C saves it. Training stages go on where they were.
fn run_stage(stage: &str, base_dir: &Path, device: DeviceChoice, gpus: Option<usize>) -> Result<()> {
    let mut args = vec!["nanochat".to_string(), "--base-dir".into(), base_dir.display().to_string()];
    args.extend(["--device".to_string(), device.to_string()]);
    args.extend(words(stage));
    if stage.starts_with("train ") {
        args.push("--resume".into());
    }
    if let Some(gpus) = gpus.filter(|_| ["train ", "eval "].iter().any(|start| stage.starts_with(start))) {
        args.push(format!("--gpus={gpus}"));
    }
    Cli::try_parse_from(&args).context("failed to parse a stage of the speedrun")?.run(&args)
}

fn is_already_there(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DataError::NotEmpty { .. }))
}

fn save(record: &Record, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(record).expect("names and numbers always serialize");
    atomic_file::write(path, json.as_bytes()).with_context(|| format!("failed to write {}", path.display()))
}

fn open(path: &PathBuf, command: &SpeedrunCommand) -> Result<Record> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let SpeedrunCommand { preset, ref name, seed, .. } = *command;
            let (name, finished) = (name.clone(), BTreeMap::new());
            return Ok(Record { preset, name, seed, finished, started: None });
        }
        text => text.with_context(|| format!("failed to read {}", path.display()))?,
    };
    let damaged = || format!("{} is damaged; delete it to run all stages again", path.display());
    let record: Record = serde_json::from_str(&text).with_context(damaged)?;
    if (record.preset, &record.name, record.seed) != (command.preset, &command.name, command.seed) {
        bail!(
            "{} holds a speedrun with other settings (preset {:?}, name {}, seed {}); choose another --base-dir",
            path.parent().unwrap_or(path).display(),
            record.preset,
            record.name,
            record.seed
        );
    }
    Ok(record)
}

fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || "-_".contains(c));
    if plain { name.to_string() } else { format!("'{}'", name.replace('\'', "")) }
}

/// Words apart by spaces; single quotes hold spaces together.
fn words(line: &str) -> Vec<String> {
    let split = |(i, part): (usize, &str)| match i % 2 {
        0 => part.split_whitespace().map(String::from).collect(),
        _ => vec![part.to_string()],
    };
    line.split('\'').enumerate().flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_a_command_that_parses() {
        for (preset, no_rl, count) in [(Preset::Laptop, false, 8), (Preset::Smoke, true, 6)] {
            let command =
                SpeedrunCommand { preset, name: "Ada L".into(), seed: 7, lang: report::Lang::En, no_rl };
            let stages = stages(&command);
            assert_eq!(stages.len(), count, "{stages:?}");
            for stage in stages {
                let args = std::iter::once("nanochat".to_string()).chain(words(&stage));
                assert!(Cli::try_parse_from(args).is_ok(), "{stage}");
                assert!(
                    stage.contains("--seed 7") == stage.starts_with(['t', 'd']) || stage.starts_with("tok")
                );
            }
        }
    }

    #[test]
    fn names_survive_as_one_word() {
        for name in ["nanochat", "小明", "Ada L", "it's"] {
            let line = format!("data make --name {}", quoted(name));
            assert_eq!(words(&line)[3], name.replace('\'', ""));
            assert_eq!(words(&line).len(), 4);
        }
    }
}
