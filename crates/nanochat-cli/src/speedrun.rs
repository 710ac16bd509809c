//! `nanochat speedrun`: all stages from nothing to a chat model. Each stage is a plain command that is printed before
//! it runs; finished ones are skipped when the speedrun is run again.

mod presets;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nanochat::files::atomic_file;
use nanochat::files::file_error::FileError;
use nanochat::model::checkpoint::{self, Stage};
use nanochat::plan::{GpuModel, Plan, PlanOptions, plan};
use nanochat::report;
use nanochat::terminal::command_line::{CommandLine, quoted};
use nanochat::terminal::environment;
use nanochat::terminal::flag_values;
use nanochat::text::clean::CleanError;
use nanochat::text::corpus_mix::MixSource;
use nanochat::text::dataset::{DatasetError, OnBadShard, Shards};
use nanochat::text::language::TextLanguage;
use nanochat_tensor::{Device, DeviceChoice};
use presets::Preset;
use serde::{Deserialize, Serialize};

use crate::Cli;

#[derive(clap::Args)]
pub struct SpeedrunCommand {
    #[command(flatten)]
    settings: Settings,
    /// Language of the report's headings and labels [default: Chinese after --lang zh, else English]
    #[arg(long, value_enum)]
    report_lang: Option<report::Lang>,
    /// Skip reinforcement learning
    #[arg(long)]
    no_rl: bool,
}

/// The settings that determine a speedrun; other settings need another base folder.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Settings {
    /// Size of the run
    #[arg(long, value_enum, default_value = "laptop")]
    preset: Preset,
    /// Language of the training text [default: mix for the built-in world, en for public text]
    #[arg(long, value_enum)]
    #[serde(default)]
    lang: Option<TextLanguage>,
    /// The assistant's name in the built-in world
    #[arg(long, default_value = WORLD_NAME)]
    name: String,
    /// Seed of the built-in world, the initial weights and every random choice
    #[arg(long, value_parser = flag_values::seed, default_value_t = DEFAULT_SEED)]
    #[serde(default = "default_seed")]
    seed: u64,
    /// From d4 on: your own cleaned text by weight instead of the public sets, as zh=0.7:FOLDER; may be repeated
    #[arg(long, value_name = "NAME=WEIGHT:FOLDER")]
    #[serde(default)]
    data: Vec<MixSource>,
    /// From d4 on: your own conversations to train on, a .jsonl file; may be repeated
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    chat: Vec<String>,
}

const DEFAULT_SEED: u64 = 42;
const WORLD_NAME: &str = "nanochat";

impl Settings {
    fn language(&self) -> TextLanguage {
        let usual = if self.preset.depth().is_some() { TextLanguage::En } else { TextLanguage::Mix };
        self.lang.unwrap_or(usual)
    }
}

/// The settings as flags.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |value: &dyn fmt::Debug| format!("{value:?}").to_lowercase();
        let (preset, lang) = (name(&self.preset), name(&self.language()));
        write!(
            f,
            "--preset {preset} --lang {lang} --name {} --seed {}",
            quoted(self.name.as_ref()),
            self.seed
        )?;
        let data = self.data.iter().map(|source| format!(" --data {}", quoted(&source.as_argument())));
        let chat = self.chat.iter().map(|file| format!(" --chat {}", quoted(file.as_ref())));
        data.chain(chat).try_for_each(|flag| f.write_str(&flag))
    }
}

/// The record of finished work in a base folder.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    settings: Settings,
    /// The seconds taken by each finished command.
    finished: BTreeMap<String, f64>,
    /// The running command. If the next process finds one, it was killed.
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
    device.open(0)?; // fails early if there is no GPU
    let stages = stages(command, base_dir, device)?;
    let mut record = open(&path, &command.settings)?;
    for command_line in &stages {
        let stage = &said(command_line);
        if record.finished.contains_key(stage) {
            eprintln!("\n$ nanochat {stage}\ndone before");
            continue;
        }
        eprintln!("\n$ nanochat {stage}");
        let started = Instant::now();
        let was_killed = record.started.replace(stage.clone()).as_ref() == Some(stage);
        save(&record, &path)?;
        let done = match run_stage(command_line, base_dir, device, gpus) {
            // It was killed after the data was complete.
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
    let lang = match command.settings.lang {
        Some(TextLanguage::Zh) => report::Lang::Zh,
        _ => report::Lang::En,
    };
    let tag = command.settings.preset.tag(device);
    let written = report::generate(base_dir, Some(&tag), command.report_lang.unwrap_or(lang))?;
    let report = written.folder.join(report::HTML_FILE);
    eprintln!("\nall stages took {:.1} minutes; the report is {}", total / 60.0, report.display());
    let stage = if command.no_rl { Stage::Sft } else { Stage::Rl };
    eprintln!("now run `{}`", chat_with(base_dir, stage, &tag)?);
    Ok(())
}

/// Returns the shortest command that chats with the model; other runs may be in the same folder.
fn chat_with(base_dir: &Path, stage: Stage, tag: &str) -> Result<CommandLine> {
    let line = CommandLine::new(["chat"]).base_dir(base_dir, crate::usual_base_dir().as_deref());
    let made = checkpoint::find(base_dir, stage, Some(tag), None)?;
    match checkpoint::find_furthest(base_dir, None, None)? == made {
        true => Ok(line),
        false => Ok(line.arg("--source").arg(stage.name()).arg("--model-tag").arg(tag)),
    }
}

/// Returns the commands to run in order. Checks now what would make a late one fail.
fn stages(command: &SpeedrunCommand, base_dir: &Path, device: DeviceChoice) -> Result<Vec<CommandLine>> {
    let settings = &command.settings;
    let mut lines = match settings.preset.depth() {
        None if !settings.data.is_empty() || !settings.chat.is_empty() => {
            bail!(
                "--data and --chat are for --preset d4 and deeper; the smaller ones learn the built-in world"
            )
        }
        None => presets::of_the_world(settings, device),
        Some(depth) => {
            check(settings)?;
            let plan = planned(depth, settings.language(), &device.open(0)?)?;
            presets::of_public_text(settings, &plan, base_dir)
        }
    };
    if command.no_rl {
        let of_rl = |line: &CommandLine| line.arguments().iter().any(|argument| argument == "rl");
        lines.retain(|line| !of_rl(line));
    }
    Ok(lines)
}

/// Refuses settings that do not apply to a model of public text.
fn check(settings: &Settings) -> Result<()> {
    if settings.name != WORLD_NAME {
        bail!(
            "--name is for the built-in world; a model of public text learns its name from --chat FILE.jsonl"
        );
    }
    if settings.language() == TextLanguage::Zh && settings.chat.is_empty() {
        bail!("a Chinese model learns to talk from conversations of yours: name them with --chat FILE.jsonl");
    }
    for source in &settings.data {
        Shards::open(&source.dir, OnBadShard::Refuse)?;
    }
    for file in &settings.chat {
        File::open(file).with_context(|| format!("failed to read {file}"))?;
    }
    Ok(())
}

/// Returns the plan of a run of this depth on the current device, and prints it in a line.
fn planned(depth: usize, language: TextLanguage, device: &Device) -> Result<Plan> {
    let (gpu, bytes) = match device.memory() {
        Some((_, total)) => (GpuModel::H100, Some(total as f64)),
        None => (GpuModel::Cpu, environment::memory_bytes()),
    };
    let options =
        PlanOptions { memory_gb: bytes.map(|bytes| bytes / 1e9), ..PlanOptions::new(language, gpu) };
    let plan = plan(depth, &options)?;
    let (params, hours) = (plan.params as f64 / 1e6, plan.pretraining.hours);
    let on = if gpu == GpuModel::Cpu { "these processors" } else { "an H100" };
    eprintln!(
        "d{depth}: {params:.1}M parameters, {} steps, {hours:.1} hours of pretraining on {on}",
        plan.steps
    );
    Ok(plan)
}

/// Runs a stage in this process, or with `gpus` in ranks that end with it: one kill ends everything, one Ctrl-C saves
/// it. Training stages resume.
fn run_stage(stage: &CommandLine, base_dir: &Path, device: DeviceChoice, gpus: Option<usize>) -> Result<()> {
    let mut args: Vec<OsString> = ["nanochat", "--base-dir"].map(OsString::from).to_vec();
    args.extend([base_dir.into(), "--device".into(), device.to_string().into()]);
    args.extend_from_slice(stage.arguments());
    if is(stage, "train") {
        args.push("--resume".into());
    }
    if let Some(gpus) = gpus.filter(|_| is(stage, "train") || is(stage, "eval")) {
        args.push(format!("--gpus={gpus}").into());
    }
    Cli::try_parse_from(&args).context("failed to parse a stage of the speedrun")?.run(&args)
}

/// Whether a stage is one of the commands `nanochat NAME …`.
fn is(stage: &CommandLine, name: &str) -> bool {
    stage.arguments().first().is_some_and(|first| first == name)
}

/// Returns a stage as typed after `nanochat`, which is also its name in the record.
fn said(stage: &CommandLine) -> String {
    stage.to_string().trim_start_matches("nanochat ").to_string()
}

/// Whether a stage failed for the reason alone that the folder it makes is there.
fn is_already_there(error: &anyhow::Error) -> bool {
    let file = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(DatasetError::File(file)), _) | (_, Some(CleanError::File(file))) => Some(file),
        _ => error.downcast_ref(),
    };
    matches!(file, Some(FileError::NotEmpty { .. }))
}

fn save(record: &Record, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(record).expect("names and numbers always serialize");
    atomic_file::write(path, json.as_bytes()).with_context(|| format!("failed to write {}", path.display()))
}

fn open(path: &PathBuf, settings: &Settings) -> Result<Record> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Record { settings: settings.clone(), finished: BTreeMap::new(), started: None });
        }
        text => text.with_context(|| format!("failed to read {}", path.display()))?,
    };
    let damaged = || format!("{} is damaged; delete it to run all stages again", path.display());
    let record: Record = serde_json::from_str(&text).with_context(damaged)?;
    if record.settings != *settings {
        bail!(
            "{} holds a speedrun with other settings ({}); choose another --base-dir",
            path.parent().unwrap_or(path).display(),
            record.settings
        );
    }
    Ok(record)
}

/// Splits a line into words at spaces; single quotes protect spaces.
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

    fn command(line: &str) -> SpeedrunCommand {
        #[derive(Parser)]
        struct SpeedrunLine {
            #[command(flatten)]
            command: SpeedrunCommand,
        }
        SpeedrunLine::parse_from(std::iter::once("speedrun".to_string()).chain(words(line))).command
    }

    #[track_caller]
    fn assert_all_parse(stages: &[CommandLine], seed: &str) {
        for line in stages {
            let stage = said(line);
            let args = std::iter::once("nanochat".into()).chain(line.arguments().iter().cloned());
            if let Err(error) = Cli::try_parse_from(args) {
                panic!("{stage}: {error}");
            }
            let draws = stage.starts_with("train") || stage.starts_with("data make");
            assert_eq!(stage.contains(seed), draws, "{stage}");
        }
    }

    #[test]
    fn a_folder_that_is_there_is_told_from_other_failures() {
        let there = || FileError::NotEmpty { path: "base_data".into() };
        assert!(is_already_there(&DatasetError::from(there()).into())); // data make
        assert!(is_already_there(&CleanError::from(there()).into())); // data clean
        assert!(is_already_there(&there().into())); // data download
        let busy = FileError::InTheMaking { path: "base_data".into() };
        assert!(!is_already_there(&busy.into()));
    }

    #[test]
    fn every_stage_is_a_command_that_parses() {
        let lines = |line: &str, device| stages(&command(line), Path::new("base"), device).unwrap();
        let of = |line: &str, device| lines(line, device).iter().map(said).collect::<Vec<_>>();
        let laptop = of("--name 'Ada L' --seed 7", DeviceChoice::Cpu);
        assert_eq!(laptop.len(), 8, "{laptop:?}");
        assert_all_parse(&lines("--name 'Ada L' --seed 7", DeviceChoice::Cpu), "--seed 7");
        let smoke = of("--preset smoke --lang zh --no-rl --seed 7", DeviceChoice::Cpu);
        assert_eq!(smoke.len(), 6, "{smoke:?}");
        assert!(smoke[0].contains("--lang zh"), "{}", smoke[0]);
        assert_all_parse(&lines("--preset smoke --lang zh --no-rl --seed 7", DeviceChoice::Cpu), "--seed 7");
        // A GPU has kernels for the head size of d4, but not for that of d3.
        assert!(laptop[2].contains("--depth 3"));
        assert!(of("", DeviceChoice::Cuda)[2].contains("--depth 4"));
    }

    #[test]
    fn models_of_public_text_are_sized_as_planned() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().join("a base");
        let all = |line: &str| -> String {
            let settings = command(line).settings;
            let options = PlanOptions::new(settings.language(), GpuModel::H100);
            let plan = plan(settings.preset.depth().unwrap(), &options).unwrap();
            let stages = presets::of_public_text(&settings, &plan, &base);
            assert_all_parse(&stages, "--seed 7");
            stages.iter().map(said).collect::<Vec<_>>().join("\n")
        };
        let english = all("--preset d20 --seed 7");
        assert!(
            english.contains("fineweb-edu -n 240\n") && english.contains("--vocab-size 65536"),
            "{english}"
        );
        assert!(
            english
                .contains("--depth 20 --max-seq-len 2048 --device-batch-size 32 --total-batch-size 524288")
        );
        let chinese = all("--preset d16 --lang zh --chat talk.jsonl --seed 7");
        assert!(
            chinese.contains("--vocab-size 40000") && chinese.contains("--max-seq-len 3072"),
            "{chinese}"
        );
        assert!(chinese.contains("--target-param-data-ratio 25 --matrix-lr 0.0269"), "{chinese}");
        let own = all("--preset d8 --lang mix --data zh=0.7:z --data en=0.3:e --seed 7");
        assert!(own.contains("--mix zh=0.7:z --mix en=0.3:e") && own.contains("--data zh=0.7:z"), "{own}");
        assert!(!own.contains("fineweb") && own.contains("--vocab-size 50000"), "{own}");
        let both = all("--preset d20 --lang mix --seed 7");
        assert!(both.contains("a base/corpus/zh' ") && both.contains("--task cmmlu"), "{both}");
    }

    #[test]
    fn what_would_fail_after_hours_fails_at_once() {
        for (line, part) in [
            ("--preset d4 --lang zh", "--chat"),
            ("--preset d4 --name Ada", "--name"),
            ("--preset d4 --chat no-such.jsonl", "no-such.jsonl"),
            ("--preset d4 --data zh=1:no-such-folder", "no-such-folder"),
            ("--chat no-such.jsonl", "built-in world"),
        ] {
            let error = stages(&command(line), Path::new("base"), DeviceChoice::Cpu).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{line}: {error:#}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_and_paths_reach_their_stage_as_they_are() {
        use std::os::unix::ffi::OsStrExt;
        for name in ["小明", "Ada L", "it's \"$HOME\"\n"] {
            let mut command = command("--preset smoke");
            command.settings.name = name.into();
            let stages = stages(&command, Path::new("base"), DeviceChoice::Cpu).unwrap();
            assert_eq!(stages[0].arguments().last().unwrap(), name);
        }
        let base = Path::new(std::ffi::OsStr::from_bytes(b"it's\n\xff"));
        let settings = command("--preset d8 --lang mix").settings;
        let options = PlanOptions::new(settings.language(), GpuModel::H100);
        let stages = presets::of_public_text(&settings, &plan(8, &options).unwrap(), base);
        let english = base.join("corpus/en");
        assert_eq!(stages[0].arguments().last().unwrap(), english.as_os_str());
        let mut given = std::ffi::OsString::from("en=0.5:");
        given.push(&english);
        assert!(stages.iter().any(|stage| stage.arguments().contains(&given)));
    }
}
