//! Turns items into token sequences, and marks which tokens are scored.

use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;

use super::{BundleTask, Format, Item, Items};
use crate::measure::span_loss::ScoredSpan;

/// One item as token sequences, ready to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub options: Vec<ScoredSpan>,
    pub gold: usize,
}

/// Returns the prompts of the items `which`, in order.
pub fn prompts(tokenizer: &Tokenizer, task: &BundleTask, items: &Items, which: &[usize]) -> Vec<Prompt> {
    let prompt = |&i: &usize| {
        let item = &items.items[i];
        let examples: String = items.examples[i].iter().map(|&j| example(&items.items[j], task)).collect();
        let options = item.options.iter().map(|(before, after)| {
            (
                format!("{examples}{before}{}", task.delimiter),
                format!("{examples}{before}{}{after}", task.delimiter),
            )
        });
        let texts: Vec<(String, String)> = options.collect();
        Prompt { options: spans(tokenizer, task.format, &texts), gold: item.gold }
    };
    which.par_iter().map(prompt).collect()
}

/// Returns an item with its answer, as an example for others.
fn example(item: &Item, task: &BundleTask) -> String {
    let (before, after) = &item.options[item.gold];
    format!("{before}{}{after}\n\n", task.delimiter)
}

/// Returns the scored span of each option. `texts` has each option without and with its end.
fn spans(tokenizer: &Tokenizer, format: Format, texts: &[(String, String)]) -> Vec<ScoredSpan> {
    let encode = |text: &str| {
        let mut ids: Vec<u32> = tokenizer.special("<|bos|>").into_iter().collect();
        tokenizer.encode_into(text, &mut ids);
        ids
    };
    let all: Vec<Vec<u32>> = texts.iter().map(|(_, whole)| encode(whole)).collect();
    match format {
        Format::MultipleChoice => {
            let start = common(&all, |ids, i| ids.get(i).copied());
            all.into_iter().map(|ids| ScoredSpan { ids, start: start.max(1) }).collect()
        }
        Format::Schema => {
            let end = common(&all, |ids, i| ids.len().checked_sub(i + 1).map(|at| ids[at]));
            all.into_iter().map(|ids| ScoredSpan { start: (ids.len() - end).max(1), ids }).collect()
        }
        Format::LanguageModeling => {
            // A trailing space would be a token of its own, which a continuation never follows.
            let (without, ids) = (encode(texts[0].0.trim()), all.into_iter().next().unwrap_or_default());
            let start = common(&[without, ids.clone()], |ids, i| ids.get(i).copied());
            vec![ScoredSpan { ids, start: start.max(1) }]
        }
    }
}

/// Returns how many tokens, in the order of `at`, all sequences have in common.
fn common(all: &[Vec<u32>], at: impl Fn(&[u32], usize) -> Option<u32>) -> usize {
    let is_common = |&i: &usize| {
        let first = at(&all[0], i);
        first.is_some() && all.iter().all(|ids| at(ids, i) == first)
    };
    (0..).take_while(is_common).count()
}
