//! Base pretraining: next-token prediction over the shards (nanochat's base_train.py).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nanochat_tensor::profile::part;
use nanochat_tensor::{Comm, Device};
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::core_metric::{CoreMetric, CoreMetricArgs};
use super::fit;
use super::run::{Run, RunSettings, is_due};
use crate::answer;
use crate::batch::Batch;
use crate::checkpoint::Stage;
use crate::config::{GptConfig, ModelOptions};
use crate::counted::counted;
use crate::dataloader::{DataLoader, LoaderState};
use crate::dataset::{OnBadShard, RowAt, Shards, Split};
use crate::device_sizes::DeviceSizes;
use crate::engine::{Engine, EngineOptions, Request};
use crate::gpt::Gpt;
use crate::gpt::Rates;
use crate::loss_eval::bits_per_byte;
use crate::mix::Source;
use crate::optim::Optimizer;
use crate::ranks;
use crate::report::{Column, Section};
use crate::sampler::SampleOptions;
use crate::schedule::Schedule;
use crate::train::{self, Diverged};
use crate::values;

/// Settings of base pretraining. The defaults suit a laptop; those of rows and batches follow the device.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct BaseSettings {
    /// The one dial: layers; width is 64 times as much
    #[arg(long, value_parser = values::amount, default_value_t = 4)]
    pub depth: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelOptions,
    /// Tokens in a row [default: 512; on a GPU 2048]
    #[arg(long, value_parser = values::amount)]
    pub max_seq_len: Option<usize>,
    /// Rows in one forward pass [default: 8; on a GPU 32]
    #[arg(long, value_parser = values::amount)]
    pub device_batch_size: Option<usize>,
    /// Tokens in one optimizer step [default: 8192; on a GPU 524288]
    #[arg(long, value_parser = values::amount)]
    pub total_batch_size: Option<usize>,
    /// Steps to train; wins over the two below
    #[arg(long, value_parser = values::steps)]
    pub num_iterations: Option<usize>,
    /// Compute to spend, in FLOPs; wins over the ratio
    #[arg(long, value_parser = values::positive)]
    pub target_flops: Option<f64>,
    /// Tokens to train on for each parameter (Chinchilla: 20)
    #[arg(long, value_parser = values::positive, default_value_t = 20.0)]
    pub target_param_data_ratio: f64,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Largest global norm of the gradient (0: no clipping)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 1.0)]
    pub grad_clip: f32,
    /// Share of the steps over which the rates rise
    #[arg(long, value_parser = values::share, default_value_t = 0.0)]
    pub warmup_ratio: f32,
    /// Share of the steps over which the rates fall
    #[arg(long, value_parser = values::share, default_value_t = 0.2)]
    pub warmdown_ratio: f32,
    /// Where the rates end, as a share of where they were
    #[arg(long, value_parser = values::share, default_value_t = 0.0)]
    pub final_lr_frac: f32,
    /// Measure validation bits per byte every N steps (0: at the end only)
    #[arg(long, value_parser = values::amount, default_value_t = 250)]
    pub eval_every: usize,
    /// Tokens of validation text to measure on
    #[arg(long, value_parser = values::amount, default_value_t = 65_536)]
    pub eval_tokens: usize,
    /// Print samples every N steps (0: at the end only)
    #[arg(long, value_parser = values::amount, default_value_t = 1000)]
    pub sample_every: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub core: CoreMetricArgs,
    /// Folder of parquet shards [default: {base-dir}/base_data]
    #[arg(long, value_parser = values::kept_path)]
    pub data_dir: Option<PathBuf>,
    /// A corpus of several, instead of --data-dir, with its share of the tokens: zh=0.7:FOLDER; may be repeated.
    /// Each is gone through at its own pace, and measured by its name
    #[arg(long, value_name = "NAME=WEIGHT:FOLDER", conflicts_with = "data_dir")]
    #[serde(default)]
    pub data: Vec<Source>,
    /// More validation text, by name: a parquet file, or a folder of which the last shard is measured; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    pub val_data: Vec<String>,
    /// What to do with a shard that cannot be read
    #[arg(long, value_enum, default_value_t = OnBadShard::Refuse)]
    pub bad_shards: OnBadShard,
    /// Prompt to complete when samples are printed; may be repeated [default: nanochat's seven]
    #[arg(long)]
    pub sample_prompt: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

const SAMPLE_PROMPTS: [&str; 7] = [
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
];

/// A validation text by name: shards, or several mixed as training is.
struct Validation {
    name: String,
    corpora: Vec<(Shards, f64)>,
}

pub fn run(settings: &BaseSettings, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let (settings, rows, total_batch_size) = settings.sized_for(device);
    let settings = &settings;
    let tokenizer_path = base_dir.join("tokenizer").join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&tokenizer_path)
        .context("base training needs a tokenizer: `nanochat tok train`")?;
    let ramps = settings.warmup_ratio + settings.warmdown_ratio;
    if ramps > 1.0 {
        bail!("--warmup-ratio and --warmdown-ratio add up to {ramps}; together they may be at most 1");
    }
    let config = settings.model.config(settings.depth, tokenizer.vocab_size(), rows[1])?;
    let grad_accum_steps = grad_accum_steps(total_batch_size, rows[0].saturating_mul(rows[1]))?;
    fit::check(&config, rows[0], settings.run.recompute, device, comm.world_size())?;
    let num_iterations = num_iterations(settings, &config, total_batch_size)?;
    let corpora = corpora(settings, base_dir)?;
    let validations = validations(settings, &corpora)?;
    let core = CoreMetric::open(&settings.core, base_dir, comm)?;

    let tag = settings.run.model_tag.clone().unwrap_or_else(|| format!("d{}", settings.depth));
    let mut run = Run::open(base_dir, Stage::Base, &tag, &settings.run, settings, device, comm)?;
    let (mut model, mut optimizer, position) = run.restore(
        &tokenizer,
        device,
        || Gpt::init(config, settings.run.seed),
        |model| Optimizer::new(model, settings.rates, settings.grad_clip, comm),
    )?;
    model.recompute = settings.run.recompute;
    model.recipe = settings.run.precision.recipe(&model.device());
    let mut loader = DataLoader::mixed(&corpora, Split::Train, &tokenizer, rows, position.as_ref(), comm)?;
    let schedule = Schedule::Trapezoid {
        num_iterations,
        warmup_ratio: settings.warmup_ratio,
        warmdown_ratio: settings.warmdown_ratio,
        final_lr_frac: settings.final_lr_frac,
    };
    let tokens = num_iterations as u64 * total_batch_size as u64;
    run.say(&format!(
        "{tag}: {:.2}M parameters, vocabulary {}, {} of {total_batch_size} tokens ({:.2}M in all, {} a step)",
        config.params() as f64 / 1e6,
        config.vocab_size,
        counted(num_iterations, "step"),
        tokens as f64 / 1e6,
        counted(grad_accum_steps, "micro-batch"),
    ));
    run.note_idle(grad_accum_steps);
    let mut section = Section { column: Some(Column::Base), ..Section::new("Base training") };
    section.results.insert("parameters".into(), config.params().into());
    section.results.insert("tokens".into(), tokens.into());
    run.show_progress("base", num_iterations);

    // A step's micro-batches are taken while the step before it is computed, and saved is the position before them.
    let feed = |loader: &mut DataLoader, step: usize| -> Result<Fed> {
        let position = loader.state();
        let all = if step < num_iterations { 0..grad_accum_steps } else { 0..0 };
        let all = all.map(|_| loader.next_batch());
        let micro_batches = part("feeding", || ranks::mine_of(comm, all).collect::<Result<_, _>>())?;
        Ok(Fed { position, micro_batches })
    };
    let mut fed = feed(&mut loader, run.first_step())?;
    for step in run.first_step()..=num_iterations {
        let last = step == num_iterations;
        // Save before evaluating: an evaluation that fails must not cost the run.
        if run.is_save_due(step, last) {
            run.save(step, &model, &tokenizer, &optimizer, json!(fed.position))?;
        }
        if run.is_interrupted() && !last {
            return Err(run.interrupted(step));
        }
        if last || is_due(step, settings.eval_every) {
            section.metrics =
                evaluate(&mut run, step, &model, &tokenizer, &validations, rows, settings.eval_tokens)?;
            let epochs = log_epochs(&mut run, step, settings, &corpora, &fed.position)?;
            section.results.insert("epochs".into(), epochs.into());
        }
        core.measure(&mut run, [step, num_iterations], &model, &tokenizer, &mut section)?;
        if last || (step > 0 && is_due(step, settings.sample_every)) {
            // The others wait at the next step.
            let lines = match comm.is_first() {
                true => samples(&model, &tokenizer, &settings.sample_prompt),
                false => Vec::new(),
            };
            lines.iter().for_each(|line| run.say(&format!("  {line}")));
            section.text = Some(lines.iter().map(|line| format!("- {line}\n")).collect());
        }
        if last {
            break;
        }
        let started = Instant::now();
        run.begin_step(step, device);
        let scheduled = schedule.at(step);
        let next = || feed(&mut loader, step + 1);
        let (result, next) =
            train::step_meanwhile(&mut model, &mut optimizer, &fed.micro_batches, scheduled, next)
                .map_err(|diverged| run.diverged(step, diverged))?;
        let seconds = started.elapsed().as_secs_f64();
        run.log_step(step, result, total_batch_size, seconds, scheduled.lr_multiplier)?;
        fed = next?;
    }
    run.finish(base_dir, section)
}

impl BaseSettings {
    /// With all sizes given, [rows, tokens in a row] of a forward pass, tokens of a step.
    fn sized_for(&self, device: &Device) -> (BaseSettings, [usize; 2], usize) {
        let sizes = DeviceSizes::of(device);
        let rows =
            [self.device_batch_size.unwrap_or(sizes.rows), self.max_seq_len.unwrap_or(sizes.row_tokens)];
        let total = self.total_batch_size.unwrap_or(sizes.step_tokens);
        let settings = BaseSettings {
            device_batch_size: Some(rows[0]),
            max_seq_len: Some(rows[1]),
            total_batch_size: Some(total),
            ..self.clone()
        };
        (settings, rows, total)
    }
}

/// Micro-batches in a step; the total must be a multiple of one.
pub fn grad_accum_steps(total_batch_size: usize, micro_batch: usize) -> Result<usize> {
    if micro_batch == 0 || total_batch_size == 0 {
        bail!("batch sizes and sequence length must be at least 1");
    }
    if !total_batch_size.is_multiple_of(micro_batch) {
        let below = total_batch_size / micro_batch * micro_batch;
        bail!(
            "--total-batch-size {total_batch_size} is not a multiple of device batch x sequence length = {micro_batch}; the nearest that are: {} and {}",
            below.max(micro_batch),
            below + micro_batch
        );
    }
    Ok(total_batch_size / micro_batch)
}

/// The first horizon that was given: iterations, FLOPs, tokens per parameter.
fn num_iterations(settings: &BaseSettings, config: &GptConfig, total_batch_size: usize) -> Result<usize> {
    let batch = total_batch_size as f64;
    let iterations = match (settings.num_iterations, settings.target_flops) {
        (Some(iterations), _) => iterations,
        (None, Some(flops)) => (flops / (config.flops_per_token() * batch)).round() as usize,
        (None, None) => (settings.target_param_data_ratio * config.params() as f64 / batch) as usize,
    };
    if iterations as u64 > values::MOST_STEPS {
        bail!(
            "the horizon of {iterations:.2e} steps is more than {}; lower --target-flops or --target-param-data-ratio",
            values::MOST_STEPS
        );
    }
    if iterations == 0 {
        bail!(
            "the horizon is less than one step; raise --num-iterations, --target-flops or --target-param-data-ratio"
        );
    }
    Ok(iterations)
}

/// What is trained on, with its weights.
fn corpora(settings: &BaseSettings, base_dir: &Path) -> Result<Vec<(Shards, f64)>> {
    if settings.data.is_empty() {
        let dir = settings.data_dir.clone().unwrap_or_else(|| base_dir.join("base_data"));
        return Ok(vec![(Shards::open(&dir, settings.bad_shards)?, 1.0)]);
    }
    let open = |source: &Source| Ok((Shards::open(&source.dir, settings.bad_shards)?, source.weight));
    settings.data.iter().map(open).collect()
}

/// `val`, mixed as training is; the texts named by the user; the corpora of a mixture, each by its name.
fn validations(settings: &BaseSettings, corpora: &[(Shards, f64)]) -> Result<Vec<Validation>> {
    let mut all = vec![Validation { name: "val".into(), corpora: corpora.to_vec() }];
    for named in &settings.val_data {
        let Some((name, path)) = named.split_once('=') else {
            bail!("--val-data wants NAME=PATH, found {named}");
        };
        let shards = Shards::open_validation(Path::new(path), settings.bad_shards)?;
        all.push(Validation { name: name.into(), corpora: vec![(shards, 1.0)] });
    }
    let several = if corpora.len() > 1 { settings.data.as_slice() } else { &[] }; // of one it would be `val` again
    for (source, corpus) in several.iter().zip(corpora) {
        all.push(Validation { name: source.name.clone(), corpora: vec![corpus.clone()] });
    }
    let mut names = BTreeSet::new();
    match all.iter().find(|validation| !names.insert(&validation.name)) {
        Some(twice) => {
            bail!("two texts are named {}; their bits per byte need names of their own", twice.name)
        }
        None => Ok(all),
    }
}

/// Bits per byte of every validation text, logged and by name.
fn evaluate(
    run: &mut Run,
    step: usize,
    model: &Gpt,
    tokenizer: &Tokenizer,
    validations: &[Validation],
    rows: [usize; 2],
    tokens: usize,
) -> Result<Map<String, Value>> {
    let batches = tokens.div_ceil(rows[0] * rows[1]).max(1);
    let byte_lengths = tokenizer.byte_lengths();
    let mut values: Vec<(String, f64)> = Vec::new();
    for Validation { name, corpora } in validations {
        let mut loader = DataLoader::mixed(corpora, Split::Val, tokenizer, rows, None, &run.comm)?;
        let batches = (0..batches).map(|_| loader.next_batch());
        let bpb = bits_per_byte(model, batches, &byte_lengths, &run.comm)?;
        if !bpb.is_finite() {
            return Err(run.diverged(step, Diverged::in_evaluation()));
        }
        values.push((format!("{name}_bpb"), bpb));
    }
    let named: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    run.log(step, &named)?;
    let said: String = named.iter().map(|(name, value)| format!(" {name} {value:.4}")).collect();
    run.say(&format!("step {step}:{said}"));
    Ok(values.into_iter().map(|(name, value)| (name.replace('_', " "), json!(value))).collect())
}

/// This rank's micro-batches of a step, and where the loader was before them.
struct Fed {
    position: LoaderState,
    micro_batches: Vec<Batch>,
}

/// How often each corpus was gone through so far, logged and as words; those of a mixture are told.
fn log_epochs(
    run: &mut Run,
    step: usize,
    settings: &BaseSettings,
    corpora: &[(Shards, f64)],
    position: &LoaderState,
) -> Result<String> {
    let mut epochs = Vec::new();
    for ((shards, _), at) in corpora.iter().zip(&position.sources) {
        let shard = shards.shard_index(Split::Train, &at.shard)?;
        let row = RowAt { shard, row_group: at.row_group, row: at.document };
        epochs.push(at.epoch as f64 + shards.passed(Split::Train, row));
    }
    if settings.data.is_empty() {
        run.log(step, &[("epochs", epochs[0])])?;
        return Ok(format!("{:.2}", epochs[0]));
    }
    let mut words = Vec::new();
    for (Source { name, .. }, epochs) in settings.data.iter().zip(epochs) {
        run.log(step, &[(&format!("{name}_epochs"), epochs)])?;
        words.push(format!("{name} {epochs:.2}"));
    }
    run.say(&format!("step {step}: epochs {}", words.join(", ")));
    Ok(words.join(", "))
}

/// Greedy continuations of a few prompts.
fn samples(model: &Gpt, tokenizer: &Tokenizer, prompts: &[String]) -> Vec<String> {
    let default = SAMPLE_PROMPTS.map(String::from);
    let prompts = if prompts.is_empty() { &default[..] } else { prompts };
    let bos = tokenizer.special("<|bos|>").unwrap_or(0);
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request {
            prompt: [vec![bos], tokenizer.encode(prompt)].concat(),
            samples: 1,
            max_tokens: 16,
            options: SampleOptions::GREEDY,
            stream: 0,
        })
        .collect();
    let options = EngineOptions::for_batch(&model.device(), requests.len());
    let mut engine = Engine::with_options(model, Some(tokenizer), options);
    let answers = engine.generate(&requests, |_| std::ops::ControlFlow::Continue(()));
    let text = |(prompt, answers): (&String, Vec<crate::engine::Completion>)| {
        format!("{prompt}{}", answer::visible_text(tokenizer, &answers[0].ids)).replace('\n', " ")
    };
    prompts.iter().zip(answers).map(text).collect()
}
