//! Evaluates a base model on exams: its answer is the letter that it finds likeliest after some solved questions.

use std::path::Path;

use nanochat_tensor::Comm;
use nanochat_tokenizer::Tokenizer;

use crate::chat::tasks::{Exam, TaskError};
use crate::measure::core_eval::{BundleTask, Format, Item, Items, answer};
use crate::measure::score::Score;
use crate::model::gpt::Gpt;

/// Returns the score on `limit` questions (0: all), each preceded by `shots` solved ones. A prompt beyond the model's
/// maximum length is cut on the left.
pub fn evaluate(
    model: &Gpt,
    tokenizer: &Tokenizer,
    exam: &Exam,
    folder: &Path,
    shots: usize,
    limit: usize,
    comm: &Comm,
) -> Result<Score, TaskError> {
    let item = |(before, question): (String, crate::chat::tasks::Question)| Item {
        options: question.letters.iter().map(|letter| (before.clone(), letter.clone())).collect(),
        gold: question.right,
    };
    let items: Vec<Item> = exam.questions(folder, shots, limit)?.into_iter().map(item).collect();
    let task = BundleTask {
        label: exam.name.into(),
        file: String::new(),
        format: Format::MultipleChoice,
        num_fewshot: 0, // the items hold their examples
        delimiter: String::new(),
        baseline: 0.25,
    };
    let items = Items { examples: vec![Vec::new(); items.len()], items };
    let mut score = Score::default();
    answer(model, tokenizer, &task, &items, comm).iter().for_each(|answered| score.count(answered.right));
    Ok(score)
}
