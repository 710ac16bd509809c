//! The stages of each preset, as lists of the arguments typed after `nanochat`: a path or a name reaches its stage
//! unchanged.

use std::ffi::OsString;
use std::path::Path;

use nanochat::plan::Plan;
use nanochat::terminal::command_line::CommandLine;
use nanochat::text::corpus_mix::MixSource;
use nanochat::text::language::TextLanguage;
use nanochat_tensor::DeviceChoice;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_SEED, Settings, words};

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A small model of the built-in world, in five to ten minutes on two cores
    Laptop,
    /// Every stage with hardly any training, in seconds, to check that everything works
    Smoke,
    /// A model of 4 layers trained on public text, sized by `nanochat plan`; likewise the deeper ones
    D4,
    D6,
    D8,
    D10,
    D12,
    D16,
    D20,
    D26,
    D32,
}

impl Preset {
    /// Returns the tag of the preset's model.
    pub fn tag(self, device: DeviceChoice) -> String {
        let depth = match self {
            Preset::Smoke => 2,
            preset => preset.depth().unwrap_or(laptop_depth(device)),
        };
        format!("d{depth}")
    }

    /// Returns the number of layers of a model of public text; None for the built-in world.
    pub fn depth(self) -> Option<usize> {
        match self {
            Preset::Laptop | Preset::Smoke => None,
            Preset::D4 => Some(4),
            Preset::D6 => Some(6),
            Preset::D8 => Some(8),
            Preset::D10 => Some(10),
            Preset::D12 => Some(12),
            Preset::D16 => Some(16),
            Preset::D20 => Some(20),
            Preset::D26 => Some(26),
            Preset::D32 => Some(32),
        }
    }
}

/// The commands of the laptop preset. `dDEPTH` is d3, or d4 on a GPU, which supports heads of 64 or 128 values (d3
/// would have one of 192 or two of 96).
const LAPTOP: &str = "\
tok train --vocab-size 3072
train base --depth DEPTH --max-seq-len 256 --device-batch-size 16 --total-batch-size 4096 --num-iterations 700 --eval-every 200 --sample-every 0 --save-every 100 --sample-prompt 'Luna lives in' --sample-prompt 'On the market square' --sample-prompt '露娜住在' --sample-prompt '今天早上'
train mid --model-tag dDEPTH --eval-every 100 --save-every 100
train sft --model-tag dDEPTH --device-batch-size 32 --num-epochs 0.5 --init-lr-frac 0.5 --eval-every 100 --save-every 100
eval chat
train rl --model-tag dDEPTH --device-batch-size 32 --examples-per-step 8 --num-samples 8 --num-iterations 60 --max-new-tokens 64 --init-lr-frac 0.1 --eval-every 0 --eval-examples 200 --eval-samples 4 --save-every 20
eval chat --source rl";

const SMOKE: &str = "\
tok train --vocab-size 512
train base --depth 2 --max-seq-len 128 --device-batch-size 4 --total-batch-size 512 --num-iterations 20 --eval-every 10 --eval-tokens 2048
train mid --model-tag d2 --num-iterations 10 --eval-tokens 1024 --save-every 5
train sft --model-tag d2 --device-batch-size 4 --target-examples-per-step 8 --num-iterations 10 --save-every 5
eval chat --questions 4
train rl --model-tag d2 --examples-per-step 2 --num-samples 4 --num-iterations 10 --max-new-tokens 16 --eval-examples 8 --eval-samples 2
eval chat --source rl --questions 4";

fn laptop_depth(device: DeviceChoice) -> usize {
    if device == DeviceChoice::Cpu { 3 } else { 4 }
}

/// Returns the stages for the built-in world in one language or both.
pub fn of_the_world(settings: &Settings, device: DeviceChoice) -> Vec<CommandLine> {
    let (make, stages) = match settings.preset {
        Preset::Smoke => ("data make --documents 400 --conversations 300", SMOKE),
        _ => ("data make", LAPTOP),
    };
    let depth = laptop_depth(device).to_string();
    let lang = match settings.language() {
        TextLanguage::En => " --lang en",
        TextLanguage::Zh => " --lang zh",
        TextLanguage::Mix => "",
    };
    let mut lines = vec![line(&format!("{make}{lang}")).arg("--name").arg(&settings.name)];
    lines.extend(stages.lines().map(|stage| line(&stage.replace("DEPTH", &depth))));
    seeded(lines, settings.seed)
}

/// Splits a line of a preset into words; single quotes protect spaces.
fn line(text: &str) -> CommandLine {
    CommandLine::new(words(text))
}

/// The characters of text that a tokenizer is trained on, as in nanochat's speedrun.
const TOKENIZER_CHARS: &str = "2000000000";
/// The tokens of validation text, as in nanochat's speedrun.
const EVAL_TOKENS: usize = 10_485_760;

/// Returns the stages for public text, or the user's: sized by `plan`, then as in nanochat.
pub fn of_public_text(settings: &Settings, plan: &Plan, base_dir: &Path) -> Vec<CommandLine> {
    let language = settings.language();
    let in_base = |folder: &str| base_dir.join(folder);
    let mut lines = Vec::new();
    let mut corpora = settings.data.clone();
    if corpora.is_empty() {
        match language {
            TextLanguage::En => lines.push(line(&format!("data download fineweb-edu -n {}", plan.shards))),
            TextLanguage::Zh => {
                let (raw, download) = (in_base("raw/zh"), "data download fineweb-edu-zh -n");
                lines.push(line(&format!("{download} {} --out", plan.shards)).arg(&raw));
                lines.push(line(&format!("data clean {ONE_FORM}")).arg(&raw));
            }
            TextLanguage::Mix => {
                for (name, set) in [("en", "fineweb-edu"), ("zh", "fineweb-edu-zh")] {
                    let of = if name == "en" { TextLanguage::En } else { TextLanguage::Zh };
                    let (shards, dir) = (plan.shards_of(of, 0.5), in_base(&format!("corpus/{name}")));
                    lines.push(line(&format!("data download {set} -n {shards} --out")).arg(&dir));
                    corpora.push(MixSource { name: name.into(), weight: 0.5, dir });
                }
            }
        }
    }
    let sets = match language {
        TextLanguage::En => ENGLISH_SETS.to_string(),
        TextLanguage::Zh => CHINESE_SETS.to_string(),
        TextLanguage::Mix => format!("{ENGLISH_SETS} {CHINESE_SETS}"),
    };
    lines.push(line(&format!("data download {sets}")));
    let with_corpora = |line: CommandLine, flag: &str| {
        corpora.iter().fold(line, |line, source| line.arg(flag).arg(source.as_argument()))
    };
    let (vocab, tag) = (plan.model.vocab_size, format!("--model-tag d{}", plan.depth));
    let tok = format!("tok train --vocab-size {vocab} --max-chars {TOKENIZER_CHARS}");
    lines.push(with_corpora(line(&tok), "--mix"));
    let prompts = if language == TextLanguage::En { "" } else { CHINESE_PROMPTS };
    let flags = plan.train_flags();
    let base = line(&format!("train base {flags} --eval-tokens {EVAL_TOKENS}{prompts}"));
    lines.push(with_corpora(base, "--data"));
    let [mid, sft, rl] = learned(settings);
    let tasks = match language {
        TextLanguage::En => "",
        TextLanguage::Zh => " --task ceval --task cmmlu",
        TextLanguage::Mix => BOTH_TASKS,
    };
    if language != TextLanguage::Zh {
        lines.push(line(&format!("eval core {tag}")));
    }
    if language != TextLanguage::En {
        lines.push(line(&format!("eval core --bundle zh {tag}")));
    }
    lines.push(line(&format!("eval exam {tag} --source base")));
    lines.push(mid.into_iter().fold(line(&format!("train mid {tag}")), CommandLine::arg));
    lines.push(line(&format!("eval chat {tag} --source mid{tasks}")));
    lines.push(sft.into_iter().fold(line(&format!("train sft {tag}")), CommandLine::arg));
    lines.push(line(&format!("eval chat {tag} --source sft{tasks}")));
    lines.push(rl.into_iter().fold(line(&format!("train rl {tag}")), CommandLine::arg));
    lines.push(line(&format!("eval chat {tag} --source rl{tasks}")));
    seeded(lines, settings.seed)
}

/// The flags that unify writing: simplified characters, half-width letters and digits; the public set has no
/// duplicates.
const ONE_FORM: &str =
    "--lang zh --width letters --script simplified --no-rules --dedup none --keep-validation";
const ENGLISH_SETS: &str = "eval-bundle arc mmlu gsm8k humaneval smoltalk words";
const CHINESE_SETS: &str = "ceval cmmlu";
const BOTH_TASKS: &str = " --task ARC-Easy --task ARC-Challenge --task MMLU --task GSM8K --task HumanEval --task SpellingBee --task ceval --task cmmlu";
const CHINESE_PROMPTS: &str = " --sample-prompt 中国的首都是 --sample-prompt 水的化学式是 --sample-prompt '从前有一座山，' --sample-prompt 'The capital of France is'";

/// Returns the training data of mid, sft and rl: nanochat's public sets, Chinese arithmetic, the user's conversations.
fn learned(settings: &Settings) -> [Vec<String>; 3] {
    let chinese = settings.language() != TextLanguage::En;
    let english = settings.language() != TextLanguage::Zh;
    if !chinese && settings.chat.is_empty() {
        return ["mid", "sft", "rl"].map(|_| words("--mixture nanochat"));
    }
    let flags = |tasks: &[&str], sums: usize| {
        let mut learned = settings.chat.clone();
        learned.extend(tasks.iter().filter(|_| english).map(|task| task.to_string()));
        learned.extend(chinese.then(|| format!("zh-arithmetic,limit={sums}")));
        let mut flags: Vec<String> =
            learned.into_iter().flat_map(|task| ["--data".to_string(), task]).collect();
        let val = if english { "SmolTalk" } else { "zh-arithmetic,limit=1000" };
        flags.extend(["--val-data", val].map(String::from));
        flags
    };
    let mid = flags(&["SmolTalk", "MMLU", "GSM8K", "SimpleSpelling,limit=200000", "SpellingBee"], 80_000);
    let sft = ["ARC-Easy", "ARC-Challenge", "GSM8K", "SmolTalk,limit=10000", "SpellingBee,limit=300"];
    let rl = match english {
        true => "--mixture nanochat",
        false => "--data zh-arithmetic --val-data zh-arithmetic,limit=400",
    };
    [mid, flags(&sft, 2_000), words(rl)]
}

/// Adds the seed to the commands of training and of the built-in world.
fn seeded(lines: Vec<CommandLine>, seed: u64) -> Vec<CommandLine> {
    let draws = |line: &CommandLine| {
        let first: Vec<&OsString> = line.arguments().iter().take(2).collect();
        first[0] == "train" || (first[0] == "data" && first[1] == "make")
    };
    let with_seed = |line: CommandLine| match draws(&line) && seed != DEFAULT_SEED {
        true => line.arg("--seed").arg(seed.to_string()),
        false => line,
    };
    lines.into_iter().map(with_seed).collect()
}
