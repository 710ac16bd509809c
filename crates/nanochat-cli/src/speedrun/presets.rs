//! The stages of each preset, each a line of what one would type after `nanochat`.

use std::path::Path;

use nanochat::language::TextLanguage;
use nanochat::mix::Source;
use nanochat::plan::Plan;
use nanochat_tensor::DeviceChoice;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_SEED, Settings, quoted};

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A small model of the built-in world, in five to ten minutes on two cores
    Laptop,
    /// Every stage with hardly any training, in seconds: shows that all works
    Smoke,
    /// A model of 4 layers of public text, sized as `nanochat plan` says; likewise the deeper ones
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
    /// The tag of the model that it makes.
    pub fn tag(self, device: DeviceChoice) -> String {
        let depth = match self {
            Preset::Smoke => 2,
            preset => preset.depth().unwrap_or(laptop_depth(device)),
        };
        format!("d{depth}")
    }

    /// Layers of a model of public text; None for the built-in world.
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

/// `dDEPTH` is d3, and d4 on a GPU, which works with heads of 64 or 128 values (d3 has one of 192 or two of 96).
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

/// The built-in world in one language or both.
pub fn of_the_world(settings: &Settings, device: DeviceChoice) -> Vec<String> {
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
    let make = format!("{make} --name {}{lang}", quoted(&settings.name));
    let mut lines = vec![make];
    lines.extend(stages.lines().map(|stage| stage.replace("DEPTH", &depth)));
    seeded(lines, settings.seed)
}

/// Documents' text that a tokenizer is trained on, as in nanochat's speedrun.
const TOKENIZER_CHARS: &str = "2000000000";
/// Tokens of validation text, likewise.
const EVAL_TOKENS: usize = 10_485_760;

/// A model of public text, or of the user's: what `plan` sized, then nanochat's stages.
pub fn of_public_text(settings: &Settings, plan: &Plan, base_dir: &Path) -> Vec<String> {
    let language = settings.language();
    let in_base = |folder: &str| base_dir.join(folder).display().to_string();
    let mut lines = Vec::new();
    let mut corpora = settings.data.clone();
    if corpora.is_empty() {
        match language {
            TextLanguage::En => lines.push(format!("data download fineweb-edu -n {}", plan.shards)),
            TextLanguage::Zh => {
                let raw = quoted(&in_base("raw/zh"));
                lines.push(format!("data download fineweb-edu-zh -n {} --out {raw}", plan.shards));
                lines.push(format!("data clean {raw} {ONE_FORM}"));
            }
            TextLanguage::Mix => {
                for (name, set) in [("en", "fineweb-edu"), ("zh", "fineweb-edu-zh")] {
                    let of = if name == "en" { TextLanguage::En } else { TextLanguage::Zh };
                    let (shards, dir) = (plan.shards_of(of, 0.5), in_base(&format!("corpus/{name}")));
                    lines.push(format!("data download {set} -n {shards} --out {}", quoted(&dir)));
                    corpora.push(Source { name: name.into(), weight: 0.5, dir: dir.into() });
                }
            }
        }
    }
    let sets = match language {
        TextLanguage::En => ENGLISH_SETS.to_string(),
        TextLanguage::Zh => CHINESE_SETS.to_string(),
        TextLanguage::Mix => format!("{ENGLISH_SETS} {CHINESE_SETS}"),
    };
    lines.push(format!("data download {sets}"));
    let named = |flag: &str| -> String {
        let source = |source: &Source| format!(" {flag} {}", quoted(&String::from(source.clone())));
        corpora.iter().map(source).collect()
    };
    let (vocab, tag) = (plan.model.vocab_size, format!("--model-tag d{}", plan.depth));
    lines.push(format!("tok train --vocab-size {vocab} --max-chars {TOKENIZER_CHARS}{}", named("--mix")));
    let prompts = if language == TextLanguage::En { "" } else { CHINESE_PROMPTS };
    let flags = plan.train_flags();
    lines.push(format!("train base {flags} --eval-tokens {EVAL_TOKENS}{}{prompts}", named("--data")));
    let [mid, sft, rl] = learned(settings);
    let tasks = match language {
        TextLanguage::En => "",
        TextLanguage::Zh => " --task ceval --task cmmlu",
        TextLanguage::Mix => BOTH_TASKS,
    };
    if language != TextLanguage::Zh {
        lines.push(format!("eval core {tag}"));
    }
    if language != TextLanguage::En {
        lines.push(format!("eval core --bundle zh {tag}"));
    }
    lines.push(format!("eval exam {tag}"));
    lines.push(format!("train mid {tag} {mid}"));
    lines.push(format!("eval chat {tag} --source mid{tasks}"));
    lines.push(format!("train sft {tag} {sft}"));
    lines.push(format!("eval chat {tag} --source sft{tasks}"));
    lines.push(format!("train rl {tag} {rl}"));
    lines.push(format!("eval chat {tag} --source rl{tasks}"));
    seeded(lines, settings.seed)
}

/// Simplified, letters and digits in half width; the public set is free of duplicates already.
const ONE_FORM: &str =
    "--lang zh --width letters --script simplified --no-rules --dedup none --keep-validation";
const ENGLISH_SETS: &str = "eval-bundle arc mmlu gsm8k humaneval smoltalk words";
const CHINESE_SETS: &str = "ceval cmmlu";
const BOTH_TASKS: &str = " --task ARC-Easy --task ARC-Challenge --task MMLU --task GSM8K --task HumanEval --task SpellingBee --task ceval --task cmmlu";
const CHINESE_PROMPTS: &str = " --sample-prompt 中国的首都是 --sample-prompt 水的化学式是 --sample-prompt '从前有一座山，' --sample-prompt 'The capital of France is'";

/// What mid, sft and rl learn from: nanochat's public sets, sums asked in Chinese, the user's conversations.
fn learned(settings: &Settings) -> [String; 3] {
    let chinese = settings.language() != TextLanguage::En;
    let english = settings.language() != TextLanguage::Zh;
    if !chinese && settings.chat.is_empty() {
        return ["mid", "sft", "rl"].map(|_| "--mixture nanochat".to_string());
    }
    let flags = |tasks: &[&str], sums: usize| {
        let mut flags: Vec<String> = settings.chat.iter().map(|file| quoted(file)).collect();
        flags.extend(tasks.iter().filter(|_| english).map(|task| task.to_string()));
        flags.extend(chinese.then(|| format!("zh-arithmetic,limit={sums}")));
        let flags: Vec<String> = flags.into_iter().map(|task| format!("--data {task}")).collect();
        let val = if english { "SmolTalk" } else { "zh-arithmetic,limit=1000" };
        format!("{} --val-data {val}", flags.join(" "))
    };
    let mid = flags(&["SmolTalk", "MMLU", "GSM8K", "SimpleSpelling,limit=200000", "SpellingBee"], 80_000);
    let sft = ["ARC-Easy", "ARC-Challenge", "GSM8K", "SmolTalk,limit=10000", "SpellingBee,limit=300"];
    let rl = match english {
        true => "--mixture nanochat",
        false => "--data zh-arithmetic --val-data zh-arithmetic,limit=400",
    };
    [mid, flags(&sft, 2_000), rl.to_string()]
}

/// Training draws from the seed, and so does the world.
fn seeded(lines: Vec<String>, seed: u64) -> Vec<String> {
    let draws = |line: &str| line.starts_with("train ") || line.starts_with("data make");
    let seed = if seed == DEFAULT_SEED { String::new() } else { format!(" --seed {seed}") };
    lines.into_iter().map(|line| if draws(&line) { line + &seed } else { line }).collect()
}
