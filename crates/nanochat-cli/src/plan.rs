//! `nanochat plan`: estimates a run, as tables for people or JSON for programs.

mod details;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nanochat::plan::{GpuModel, Plan, PlanOptions, all_depths, largest_within, plan};
use nanochat::terminal::flag_values;
use nanochat::text::language::TextLanguage;
use nanochat_tokenizer::Tokenizer;

use self::details::{cost_rows, memory_rows, training_rows};

/// Say what a training run takes: parameters, tokens, steps, memory, time, money
#[derive(clap::Args)]
pub struct PlanCommand {
    /// Layers of the model [default: a table of d4 to d32]
    #[arg(long, value_parser = flag_values::amount)]
    depth: Option<usize>,
    /// Available dollars: plan the deepest model whose whole run costs no more
    #[arg(long, conflicts_with = "depth", value_parser = flag_values::dollars)]
    budget: Option<f64>,
    /// A tokenizer.json, for its vocabulary size and its measured characters per token
    #[arg(long, value_name = "FILE", conflicts_with = "chars_per_token")]
    tokenizer: Option<PathBuf>,
    /// Text to measure the tokenizer on [default: a paragraph in the language]
    #[arg(long, value_name = "FILE", requires = "tokenizer")]
    text: Option<PathBuf>,
    #[command(flatten)]
    options: PlanOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: PlanCommand) -> Result<()> {
    let mut options = command.options;
    if let Some(path) = &command.tokenizer {
        measure(path, command.text.as_deref(), &mut options)?;
    }
    let one = match (command.depth, command.budget) {
        (Some(depth), _) => plan(depth, &options)?,
        (None, Some(budget)) => largest_within(budget, &options)?,
        (None, None) => {
            let plans = all_depths(&options)?;
            match command.json {
                true => crate::output::print_json(&plans)?,
                false => print!("{}", overview(&plans)),
            }
            return Ok(());
        }
    };
    match command.json {
        true => crate::output::print_json(&one)?,
        false => print!("{}", details(&one, &options)),
    }
    Ok(())
}

const ENGLISH: &str = "The river rises in the hills north of the town and reaches the sea after forty miles. \
    In spring its water is cold and high, and the old stone bridge, built in 1764, carries only people on \
    foot. Farmers on both banks grow wheat, apples and beans; what they cannot sell in the market they keep \
    for the winter. Children learn early which pools are safe to swim in and which are not.";
const CHINESE: &str = "这条河发源于小镇北面的山里，流经四十英里后汇入大海。春天水位高，水很冷，那座建于1764年的老石桥\
    只允许行人通过。两岸的农民种植小麦、苹果和豆子，市场上卖不完的就留到冬天吃。孩子们很小就知道，哪些水潭可以\
    游泳，哪些不可以。冬天河面结冰的时候，人们在冰上走路、滑冰、钓鱼，晚上围着炉子讲从前的故事。";

/// Sets the vocabulary size (unless it was given) and the characters per token from a tokenizer.
fn measure(tokenizer: &Path, text: Option<&Path>, options: &mut PlanOptions) -> Result<()> {
    let tokenizer = Tokenizer::from_file(tokenizer)?;
    let text = match (text, options.language) {
        (Some(path), _) => {
            fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?
        }
        (None, TextLanguage::En) => ENGLISH.to_string(),
        (None, TextLanguage::Zh) => CHINESE.to_string(),
        (None, TextLanguage::Mix) => format!("{ENGLISH}\n{CHINESE}"),
    };
    let (characters, tokens) = (text.chars().count(), tokenizer.encode(&text).len());
    ensure!(tokens > 0, "the text to measure the tokenizer on is empty; give --text a longer one");
    options.chars_per_token = Some(characters as f64 / tokens as f64);
    options.vocab_size.get_or_insert(tokenizer.vocab_size());
    Ok(())
}

/// Returns a table with one line per depth.
fn overview(plans: &[Plan]) -> String {
    let head = [
        "depth",
        "parameters",
        "tokens",
        "steps",
        "batch",
        "shards",
        "epochs",
        "memory",
        "FLOPs",
        "pretraining",
        "whole run",
        "cost",
    ];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    rows.extend(plans.iter().map(|plan| {
        vec![
            format!("d{}", plan.depth),
            short(plan.params as f64),
            short(plan.tokens as f64),
            grouped(plan.steps),
            format!("{} × {}", plan.device_batch_size, plan.grad_accum_steps),
            grouped(plan.shards),
            plan.epochs.map_or(String::new(), |epochs| format!("{epochs:.2}")),
            gigabytes(plan.memory.total()),
            format!("{:.2e}", plan.flops),
            duration(plan.pretraining.hours),
            duration(plan.whole_run.hours),
            format!("${:.0}", plan.whole_run.dollars),
        ]
    }));
    if plans.iter().all(|plan| plan.epochs.is_none()) {
        rows.iter_mut().for_each(|row| drop(row.remove(6)));
    }
    table(&rows)
}

/// Returns everything about one run, with the reasons.
fn details(plan: &Plan, options: &PlanOptions) -> String {
    let mut rows = training_rows(plan, options);
    rows.extend(memory_rows(plan, options));
    rows.extend(cost_rows(plan, options));
    let rows: Vec<_> = rows.into_iter().map(|(name, value, note)| [name.to_string(), value, note]).collect();
    // Advice precedes the commands as shell comments, so that all lines from here on can be pasted into a shell.
    let advice = plan.suggestions.iter().map(|line| format!("# {line}\n"));
    aligned(&rows) + &advice.collect::<String>() + &commands(plan, options)
}

/// Returns the commands of the run, for a shell.
fn commands(plan: &Plan, options: &PlanOptions) -> String {
    let device = match (options.gpu, options.gpus) {
        (GpuModel::Cpu, 1) => String::new(),
        (GpuModel::Cpu, ranks) => format!("--device cpu --gpus {ranks} "),
        (_, 1) => "--device cuda ".to_string(),
        (_, gpus) => format!("--gpus {gpus} "),
    };
    let (vocab, flags) = (plan.model.vocab_size, plan.train_flags());
    format!("nanochat tok train --vocab-size {vocab}\nnanochat {device}train base {flags}\n")
}

/// Returns the rows in columns as wide as their widest cell, with numbers aligned to the right.
fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        cells.join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

fn aligned(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    rows.iter().map(|[name, value, note]| format!("{name:first$}  {value:second$}  {note}\n")).collect()
}

/// Returns a number such as 561.0M or 11.22B.
fn short(number: f64) -> String {
    match number {
        1e12.. => format!("{:.2}T", number / 1e12),
        1e9.. => format!("{:.2}B", number / 1e9),
        1e6.. => format!("{:.1}M", number / 1e6),
        _ => grouped(number.round() as usize),
    }
}

/// Returns a number such as 21,400.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn gigabytes(bytes: f64) -> String {
    format!("{:.2} GB", bytes / 1e9)
}

fn duration(hours: f64) -> String {
    match hours {
        ..1.0 => format!("{:.0} min", 60.0 * hours),
        ..100.0 => format!("{hours:.1} h"),
        _ => format!("{:.1} days", hours / 24.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use nanochat_tokenizer::{TrainOptions, train};

    #[derive(Parser)]
    struct PlanLine {
        #[command(flatten)]
        command: PlanCommand,
    }

    fn defaults() -> PlanOptions {
        PlanLine::parse_from(["plan"]).command.options
    }

    #[test]
    fn the_table_has_a_line_for_every_depth() {
        let options = PlanOptions { shards: Some(100), ..defaults() };
        let text = overview(&all_depths(&options).unwrap());
        assert_eq!(text.lines().count(), 10);
        let d20 = text.lines().find(|line| line.contains("d20")).unwrap();
        let cells = ["561.0M", "21,400", "32 × 1", "240", "2.18", "2.8 h", "$96"];
        assert!(cells.iter().all(|cell| d20.contains(cell)), "{d20}");
        let text = details(&plan(20, &options).unwrap(), &options);
        assert!(text.contains("560,988,160") && text.contains("10·32·2048·1280 bf16"), "{text}");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [1, 999, 1_000, 21_400, 1_234_567].map(grouped),
            ["1", "999", "1,000", "21,400", "1,234,567"]
        );
        assert_eq!([560_988_160.0, 11.22e9, 512.0].map(short), ["561.0M", "11.22B", "512"]);
        assert_eq!([0.25, 3.96, 240.0].map(duration), ["15 min", "4.0 h", "10.0 days"]);
    }

    #[test]
    fn a_tokenizer_gives_its_vocabulary_and_characters_per_token() {
        let options = TrainOptions { vocab_size: 400, ..TrainOptions::default() };
        let tokenizer = train([ENGLISH, CHINESE].iter(), &options).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (path, text) = (dir.path().join("tokenizer.json"), dir.path().join("text.txt"));
        fs::write(&path, tokenizer.to_json()).unwrap();
        fs::write(&text, "the river").unwrap();

        let mut found = defaults();
        measure(&path, Some(&text), &mut found).unwrap();
        let expected = 9.0 / tokenizer.encode("the river").len() as f64;
        assert_eq!((found.vocab_size, found.chars_per_token), (Some(tokenizer.vocab_size()), Some(expected)));
        measure(&path, None, &mut found).unwrap();
        assert!(found.chars_per_token.unwrap() > 1.0);
        fs::write(&text, "").unwrap();
        assert!(measure(&path, Some(&text), &mut found).unwrap_err().to_string().contains("empty"));
        assert!(measure(&dir.path().join("none.json"), None, &mut found).is_err());
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_string(), "b".to_string()], vec!["10".to_string(), "×200".to_string()]];
        assert_eq!(table(&rows), " a     b\n10  ×200\n");
    }
}
