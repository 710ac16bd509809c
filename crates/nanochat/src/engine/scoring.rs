//! Scores a given text, token by token; used for `echo` with `logprobs`.

use std::sync::Arc;

use nanochat_tensor::Tape;

use crate::engine::sampler::{Logprobs, log_probabilities};
use crate::model::gpt::Gpt;

/// The logits computed at a time, 16 MiB: those of a whole text would be the largest tensor by far.
const LOGITS: usize = 4 << 20;

/// Returns the log-probabilities of `ids[1..]`, each given the tokens before it, with the `top` likeliest at each
/// position.
pub(super) fn score(model: &Gpt, ids: &[u32], top: usize) -> Vec<Logprobs> {
    let inputs = &ids[..ids.len().saturating_sub(1)];
    if inputs.is_empty() {
        return Vec::new();
    }
    let positions: Arc<[usize]> = (0..inputs.len()).collect();
    let tape = Tape::off();
    let attend = &mut |_: usize, q: &_, k: &_, v: &_| tape.attention(q, k, v, None);
    let x = model.hidden(&tape, inputs, [1, inputs.len()], &positions, attend);
    let chunk = (LOGITS / model.config.vocab_size).max(1);
    let mut scores = Vec::with_capacity(inputs.len());
    for start in (0..inputs.len()).step_by(chunk) {
        let rows: Vec<usize> = (start..inputs.len().min(start + chunk)).collect();
        let logits = model.unembed(&x.gather_rows(&rows));
        let of_row = |(logits, row): (&[f32], &usize)| log_probabilities(logits, ids[row + 1], top);
        scores.extend(logits.data().chunks_exact(logits.cols()).zip(&rows).map(of_row));
    }
    scores
}
