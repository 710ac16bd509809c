//! Measures a base model while it trains: bits per byte of validation texts, epochs, and samples.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::BaseSettings;
use crate::conversation::answer;
use crate::engine::sampler::SampleOptions;
use crate::engine::{Completion, Engine, EngineOptions, Request};
use crate::measure::loss_eval::bits_per_byte;
use crate::text::corpus_mix::MixSource;
use crate::text::dataloader::{DataLoader, LoaderState};
use crate::text::dataset::{RowAt, Shards, Split};
use crate::train::Diverged;
use crate::train::stages::run::{Learner, Run};

const SAMPLE_PROMPTS: [&str; 7] = [
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
];

/// A named validation text: one corpus, or several mixed like the training text.
pub(super) struct Validation {
    name: String,
    corpora: Vec<(Shards, f64)>,
}

/// Returns all validation texts: `val`, mixed like the training text; the texts named by the user; and the corpora of a
/// mixture, each under its name.
pub(super) fn validations(settings: &BaseSettings, corpora: &[(Shards, f64)]) -> Result<Vec<Validation>> {
    let mut all = vec![Validation { name: "val".into(), corpora: corpora.to_vec() }];
    for named in &settings.val_data {
        let Some((name, path)) = named.split_once('=') else {
            bail!("--val-data wants NAME=PATH, found {named}");
        };
        let shards = Shards::open_validation(Path::new(path), settings.bad_shards)?;
        all.push(Validation { name: name.into(), corpora: vec![(shards, 1.0)] });
    }
    let several = if corpora.len() > 1 { settings.data.as_slice() } else { &[] }; // a single corpus would be `val` again
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

/// Measures and logs the bits per byte of every validation text, and returns them by name.
pub(super) fn evaluate(
    run: &mut Run,
    step: usize,
    learner: &Learner,
    validations: &[Validation],
    rows: [usize; 2],
    tokens: usize,
) -> Result<Map<String, Value>> {
    let Learner { tokenizer, model, .. } = learner;
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

/// Logs the epochs of each corpus so far and returns them in words; those of a mixture are also shown to the user.
pub(super) fn log_epochs(
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
    for (MixSource { name, .. }, epochs) in settings.data.iter().zip(epochs) {
        run.log(step, &[(&format!("{name}_epochs"), epochs)])?;
        words.push(format!("{name} {epochs:.2}"));
    }
    run.say(&format!("step {step}: epochs {}", words.join(", ")));
    Ok(words.join(", "))
}

/// Returns greedy continuations of a few prompts.
pub(super) fn samples(learner: &Learner, prompts: &[String]) -> Vec<String> {
    let Learner { tokenizer, model, .. } = learner;
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
    let answers = engine.generate(&requests, |_| ControlFlow::Continue(()));
    let text = |(prompt, answers): (&String, Vec<Completion>)| {
        format!("{prompt}{}", answer::visible_text(tokenizer, &answers[0].ids)).replace('\n', " ")
    };
    prompts.iter().zip(answers).map(text).collect()
}
