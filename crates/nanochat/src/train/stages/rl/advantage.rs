//! Computes advantages, the reward of an answer minus the mean of its question's answers, and makes batches of them.

use nanochat_tensor::Comm;

use super::rollouts::Rollout;
use crate::model::batch::{Batch, Row};
use crate::model::gpt::Gpt;
use crate::ranks;

/// Returns the number of tokens that the model chose.
pub(super) fn sampled_tokens(answer: &Rollout) -> usize {
    answer.sampled.iter().filter(|&&sampled| sampled).count()
}

fn mean_reward(group: &[Rollout]) -> f32 {
    group.iter().map(|answer| answer.reward).sum::<f32>() / group.len() as f32
}

/// Whether some answers are better than others; a group in which all are equal teaches nothing.
pub(super) fn is_mixed(group: &[Rollout]) -> bool {
    group.iter().any(|answer| answer.reward != group[0].reward)
}

/// Returns the answers with their advantages as weights of the sampled tokens. Answers of groups that are not mixed
/// have an advantage of 0; they are included only with `all`, for a KL term.
pub fn weighted_by_advantage(groups: Vec<Vec<Rollout>>, all: bool) -> Vec<Rollout> {
    let mut answers = Vec::new();
    for mut group in groups.into_iter().filter(|group| all || is_mixed(group)) {
        let mean = mean_reward(&group);
        for answer in &mut group {
            let advantage = answer.reward - mean;
            let weights = answer.sampled.iter().map(|&sampled| if sampled { advantage } else { 0.0 });
            answer.row.weights = weights.collect();
        }
        answers.extend(group);
    }
    answers
}

/// Returns this rank's padded batches of up to `rows` answers, each with a mask (B·T) of the sampled targets.
pub fn batches(answers: &[Rollout], rows: usize, model: &Gpt, comm: &Comm) -> Vec<(Batch, Vec<bool>)> {
    let (context, device) = (model.config.sequence_len, model.device());
    let padded = |answers: &[Rollout], weights: &dyn Fn(&Rollout) -> Vec<f32>| {
        let row = |answer: &Rollout| Row { ids: answer.row.ids.clone(), weights: weights(answer) };
        let all: Vec<Row> = answers.iter().map(row).collect();
        Batch::padded(&all, context, 0).regular(&device, rows, context)
    };
    let batch = |answers: &[Rollout]| {
        let marks = |answer: &Rollout| answer.sampled.iter().map(|&s| f32::from(u8::from(s))).collect();
        let sampled = padded(answers, &marks).weights.into_iter().map(|mark| mark > 0.0).collect();
        (padded(answers, &|answer| answer.row.weights.clone()), sampled)
    };
    let chunks: Vec<&[Rollout]> = answers.chunks(rows).collect();
    ranks::mine(comm, chunks.len()).map(|i| batch(chunks[i])).collect()
}
