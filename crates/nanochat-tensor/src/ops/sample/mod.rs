//! Samples tokens on a GPU from the logits that are there: penalties, top-k, temperature, min-p and top-p, in this
//! order, as the engine's sampler on the CPU does. Only the sampled ids are copied to the CPU.
//!
//! Used in generation only; nothing is recorded for a backward pass.

use crate::cuda::{Locked, sources};
use crate::gpu::{Buffer, Gpu};
use crate::{Dtype, Tensor};
const THREADS: u32 = 1_024;

/// The most top tokens of a row whose log-probabilities are returned.
pub const MOST_LOGPROBS: usize = 1_024;

/// The options for sampling one token, with the same meanings and bounds as on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The row of logits to sample from; several choices may use the same row.
    pub row: usize,
    /// The random number in [0, 1) that decides the sample.
    pub uniform: f64,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub penalties: Option<Penalties<'a>>,
}

/// Penalties that make tokens of the prompt and of the answer less likely.
#[derive(Clone, Copy, Debug)]
pub struct Penalties<'a> {
    pub repetition: f32,
    pub presence: f32,
    pub frequency: f32,
    pub prompt: &'a [u32],
    pub answer: &'a [u32],
}

/// The tokens sampled on a GPU, which writes their ids to the CPU's memory.
pub struct Chosen(Locked<u32>); // (choices)

impl Chosen {
    /// Waits for the GPU and returns the ids.
    pub fn ids(&self) -> Vec<u32> {
        self.0.read()
    }

    /// Wraps the given ids, so that `log_probabilities` accepts them.
    pub fn from_ids(logits: &Tensor, ids: &[u32]) -> Chosen {
        Chosen(Locked::of(logits.buffer().gpu(), ids))
    }
}

/// Samples from logits (rows, V), f32 on a GPU. Choices and ids stay in the CPU's memory, so a step is followed by one
/// kernel, without a copy before and after it.
#[track_caller]
pub fn choose(logits: &Tensor, choices: &[Choice]) -> Chosen {
    let gpu = logits.buffer().gpu();
    let (rows, v) = shape(logits);
    let (changed, penalized) = penalize(gpu, logits, choices);
    let mut words: Vec<u32> = Vec::with_capacity(8 * choices.len());
    let mut changed_rows = 0;
    for c in choices {
        assert!(c.row < rows, "a choice from row {} of {rows}", c.row);
        changed_rows += u32::from(c.penalties.is_some());
        let of_changed = if c.penalties.is_some() { changed_rows } else { 0 };
        let top_k = c.top_k.min(v) as u32;
        let [low, high] = [c.uniform.to_bits() as u32, (c.uniform.to_bits() >> 32) as u32];
        let floats = [c.temperature, c.top_p, c.min_p].map(f32::to_bits);
        words.extend([c.row as u32, top_k, floats[0], floats[1], floats[2], of_changed, low, high]);
    }
    let (words, chosen) = (Locked::of(gpu, &words), Locked::new(gpu, choices.len()));
    let launch = gpu.kernel(sources::sample, "sample_choose").slice(chosen.slice()).slice(logits.slice());
    let launch = launch.slice(changed.as_ref().map(Buffer::slice)).slice(words.slice()).u32(v);
    debug_assert_eq!(changed_rows as usize, penalized);
    // SAFETY: a block for each choice, whose rows of `logits` and `changed` exist.
    unsafe { launch.run([choices.len(), 1, 1], THREADS, 0) }
    words.used();
    chosen.used();
    Chosen(chosen)
}

/// Returns copies of the rows with penalties applied, one for each choice that has any, and the number of copies.
fn penalize(gpu: &Gpu, logits: &Tensor, choices: &[Choice]) -> (Option<Buffer>, usize) {
    let v = logits.cols();
    let (mut words, mut seen): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    for (choice, p) in choices.iter().filter_map(|choice| Some((choice, choice.penalties?))) {
        let sizes = [choice.row, seen.len(), p.prompt.len(), p.answer.len()].map(|n| n as u32);
        words.extend(sizes.into_iter().chain([p.repetition, p.presence, p.frequency].map(f32::to_bits)));
        seen.extend_from_slice(p.prompt);
        seen.extend_from_slice(p.answer);
    }
    let count = words.len() / 7;
    if count == 0 {
        return (None, 0);
    }
    let (changed, counts) = (gpu.alloc(count * v, Dtype::F32), gpu.zeros(count * v, Dtype::F32));
    let [words, seen] = [words, seen].map(|values| gpu.upload(&values));
    let launch = gpu.kernel(sources::sample, "sample_penalize").slice(changed.slice()).slice(counts.slice());
    let launch = launch.slice(logits.slice()).slice(words.slice()).slice(seen.slice()).u32(v);
    // SAFETY: a block for each copy of a row; the tokens of each lie where its words say, and the kernel passes
    // over those outside the vocabulary.
    unsafe { launch.run([count, 1, 1], THREADS, 0) }
    (Some(changed), count)
}

/// The natural logarithms of the probabilities at one position.
pub struct LogProbabilities {
    pub chosen: f32,
    /// The likeliest tokens, likeliest first; among equals the smaller id comes first.
    pub top: Vec<(u32, f32)>,
}

/// Returns the log-probabilities of each chosen token and of the `top` likeliest tokens (at most MOST_LOGPROBS) in its
/// row of the logits (rows, V); `of` lists these rows. Waits for the GPU.
#[track_caller]
pub fn log_probabilities(
    logits: &Tensor,
    of: &[usize],
    chosen: &Chosen,
    top: usize,
) -> Vec<LogProbabilities> {
    let gpu = logits.buffer().gpu();
    let (rows, v) = shape(logits);
    assert!(top <= MOST_LOGPROBS, "log-probabilities of {top} tokens; {MOST_LOGPROBS} can be had");
    assert_eq!(of.len(), chosen.0.len(), "a row for each chosen token");
    assert!(of.iter().all(|&row| row < rows), "rows outside {rows}");
    let width = 1 + 2 * top;
    let of_rows: Vec<u32> = of.iter().map(|&row| row as u32).collect();
    let (of_rows, out) = (gpu.upload(&of_rows), gpu.alloc(of.len() * width, Dtype::F32));
    let launch =
        gpu.kernel(sources::sample, "sample_log_probabilities").slice(out.slice()).slice(logits.slice());
    let launch = launch.slice(of_rows.slice()).slice(chosen.0.slice()).u32(v).u32(top);
    // SAFETY: a block for each chosen token; all tokens and their rows exist, and out holds `width` values for each.
    unsafe { launch.run([of.len(), 1, 1], THREADS, 0) }
    chosen.0.used();
    let mut values = vec![0.0f32; out.len()];
    gpu.download(out.slice(), &mut values);
    let of_token = |values: &[f32]| {
        let (ids, logprobs) = values[1..].split_at(top);
        let pairs = ids.iter().map(|id| id.to_bits()).zip(logprobs.iter().copied());
        LogProbabilities { chosen: values[0], top: pairs.take_while(|&(id, _)| (id as usize) < v).collect() }
    };
    values.chunks_exact(width).map(of_token).collect()
}

#[track_caller]
fn shape(logits: &Tensor) -> (usize, usize) {
    let &[rows, v] = logits.shape() else { panic!("logits (rows, V), found {:?}", logits.shape()) };
    assert!(logits.dtype() == Dtype::F32 && v > 0, "logits are float32");
    (rows, v)
}
