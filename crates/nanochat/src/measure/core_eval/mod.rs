//! CORE (Li et al. 2024, DataComp-LM) measures a base model on few-shot tasks: it is the mean over 22 tasks of the
//! accuracy above guessing. Prompts, few-shot examples and scoring equal nanochat's (core_eval.py), so that scores are
//! comparable.

mod bundle;
mod prompt;
mod scores;

use nanochat_tensor::Comm;
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

pub use bundle::{Bundle, BundleError, BundleTask, Format, Item, Items};
pub use prompt::{Prompt, prompts};
pub use scores::{CORE_TASKS, CoreScores, TaskScore};

use crate::measure::score::Score;
use crate::measure::span_loss::{ScoredSpan, span_losses, spans_are_greedy};
use crate::model::gpt::Gpt;
use crate::ranks::Shares;

/// The answer to one item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// The mean loss of each option; empty for language modeling.
    pub losses: Vec<f64>,
    pub right: bool,
    /// Whether an option exceeded the model's maximum length, so that its beginning was cut off.
    pub cropped: bool,
}

/// Evaluates the model on every task of `bundle` whose file exists, with its first `limit` items (0: all). `progress`
/// is called with each result. Fails if no task has a file.
pub fn evaluate(
    model: &Gpt,
    tokenizer: &Tokenizer,
    bundle: &Bundle,
    limit: usize,
    comm: &Comm,
    mut progress: impl FnMut(&TaskScore),
) -> Result<CoreScores, BundleError> {
    let (mut tasks, mut missing) = (Vec::new(), Vec::new());
    for task in &bundle.tasks {
        let Some(items) = bundle.items(task, limit)? else {
            missing.push(task.file.clone());
            continue;
        };
        let mut score = Score::default();
        let answers = answer(model, tokenizer, task, &items, comm);
        answers.iter().for_each(|answered| score.count(answered.right));
        let result = TaskScore {
            label: task.label.clone(),
            score,
            accuracy: score.share(),
            interval: score.interval(),
            centered: score.centered(task.baseline),
            cropped: answers.iter().filter(|answered| answered.cropped).count(),
        };
        progress(&result);
        tasks.push(result);
    }
    if tasks.is_empty() {
        return Err(BundleError::Nothing { folder: bundle.folder().into() });
    }
    Ok(CoreScores::of(tasks, missing))
}

/// Answers all items of a task and returns the results in order; each item is answered by the rank that owns it.
pub fn answer(
    model: &Gpt,
    tokenizer: &Tokenizer,
    task: &BundleTask,
    items: &Items,
    comm: &Comm,
) -> Vec<Answered> {
    let shares = Shares::by_size(comm, (0..items.items.len()).map(|i| items.size(i)));
    let mine: Vec<usize> = shares.mine().collect();
    shares.gather(comm, answer_prompts(model, task, &prompts(tokenizer, task, items, &mine)))
}

fn answer_prompts(model: &Gpt, task: &BundleTask, prompts: &[Prompt]) -> Vec<Answered> {
    let spans: Vec<&[ScoredSpan]> = prompts.iter().map(|prompt| prompt.options.as_slice()).collect();
    let cropped = |prompt: &Prompt| prompt.options.iter().any(|span| span.is_cropped(model));
    if task.format == Format::LanguageModeling {
        let answered = |(prompt, right)| Answered { losses: Vec::new(), right, cropped: cropped(prompt) };
        return prompts.iter().zip(spans_are_greedy(model, &spans)).map(answered).collect();
    }
    let mut losses = span_losses(model, &spans).into_iter();
    let answered = |prompt: &Prompt| {
        let losses: Vec<f64> = losses.by_ref().take(prompt.options.len()).collect();
        Answered { right: lowest(&losses) == prompt.gold, losses, cropped: cropped(prompt) }
    };
    prompts.iter().map(answered).collect()
}

/// Returns the index of the lowest loss, the first if several are equal. An option without tokens of its own has no
/// loss (NaN); as in Python's `min`, it wins only if it is the first.
fn lowest(losses: &[f64]) -> usize {
    (0..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best })
}

#[cfg(test)]
mod tests;
