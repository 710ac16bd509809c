//! CORE (Li et al. 2024, DataComp-LM): how well a base model does few-shot tasks. The mean over 22 tasks of the
//! accuracy above guessing; prompts, few-shot draws and scoring are nanochat's (core_eval.py), so that scores compare.

mod bundle;
mod prompt;

use nanochat_tensor::Comm;
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

pub use bundle::{Bundle, BundleError, BundleTask, Format, Item, Items};
pub use prompt::{Prompt, prompts};

use crate::gpt::Gpt;
use crate::ranks::Shares;
use crate::score::Score;
use crate::span_loss::{Span, span_losses, spans_are_greedy};

/// What CORE found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoreScores {
    /// The mean of the tasks that were run; to be compared only if none is `missing`.
    pub core: f64,
    /// Files of the bundle that are not there.
    pub missing: Vec<String>,
    pub tasks: Vec<TaskScore>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskScore {
    pub label: String,
    pub score: Score,
    pub accuracy: f64,
    /// The 95 % confidence interval of the accuracy.
    pub interval: [f64; 2],
    pub centered: f64,
}

/// How one item was answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// Mean loss of each option; empty for language modeling.
    pub losses: Vec<f64>,
    pub right: bool,
}

impl CoreScores {
    /// A partial score must not be taken for the whole one.
    pub fn name(&self) -> String {
        match self.missing.len() {
            0 => "CORE".into(),
            missing => format!("CORE (partial: {missing} of {} tasks missing)", self.tasks.len() + missing),
        }
    }
}

/// Runs every task of `bundle` that is there, on its first `limit` items (0: all). `progress` sees each result.
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
        answer(model, tokenizer, task, &items, comm).iter().for_each(|answered| score.count(answered.right));
        let result = TaskScore {
            label: task.label.clone(),
            score,
            accuracy: score.share(),
            interval: score.interval(),
            centered: score.centered(task.baseline),
        };
        progress(&result);
        tasks.push(result);
    }
    if tasks.is_empty() {
        return Err(BundleError::Nothing { folder: bundle.folder().into() });
    }
    let core = tasks.iter().map(|task| task.centered).sum::<f64>() / tasks.len() as f64;
    Ok(CoreScores { core, missing, tasks })
}

/// All items of a task, in order, each by the rank it belongs to.
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
    let spans: Vec<&[Span]> = prompts.iter().map(|prompt| prompt.options.as_slice()).collect();
    if task.format == Format::LanguageModeling {
        let greedy = spans_are_greedy(model, &spans);
        return greedy.into_iter().map(|right| Answered { losses: Vec::new(), right }).collect();
    }
    let mut losses = span_losses(model, &spans).into_iter();
    let answered = |prompt: &Prompt| {
        let losses: Vec<f64> = losses.by_ref().take(prompt.options.len()).collect();
        Answered { right: lowest(&losses) == prompt.gold, losses }
    };
    prompts.iter().map(answered).collect()
}

/// The first of the lowest. An option without tokens of its own has no loss (NaN): the comparison is Python's `min`,
/// which takes such an option only if it is the first.
fn lowest(losses: &[f64]) -> usize {
    (0..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best })
}

#[cfg(test)]
mod tests;
