//! The interface between scheduling, which is the same for all devices, and the kernels that compute a step.
//!
//! [`ModelBackend`] runs `Gpt` op by op on the CPU with packed weights; a row's result does not depend on the rows
//! beside it. The GPU's backend is in `cuda.rs`.

use std::sync::Arc;

use nanochat_tensor::{CachedRow, Dtype, KvPages, PAGE, Tape, Tensor};
use rayon::prelude::*;

use super::pages::PageCopy;
use super::scoring::score;
use crate::engine::sampler::{Drawn, Logprobs, SampleOptions, Seen, sample};
use crate::model::config::GptConfig;
use crate::model::gpt::Gpt;

/// The input of one step: new tokens of any number of sequences, and the tokens to sample after them.
pub struct StepInput<'a> {
    pub parts: Vec<SequencePart<'a>>,
    pub draws: Vec<Draw<'a>>,
}

/// The next tokens of one sequence: one in decoding, a chunk in prefill.
#[derive(Clone, Copy)]
pub struct SequencePart<'a> {
    pub tokens: &'a [u32],
    /// The position of the first of the tokens in the sequence.
    pub start: usize,
    /// The pages of the sequence, including those for these tokens.
    pub pages: &'a [u32],
}

/// A request to sample a token after the last token of a part.
pub struct Draw<'a> {
    pub part: usize,
    pub seen: Seen<'a>,
    pub options: &'a SampleOptions,
    /// The random number in [0, 1) that decides the sample. The engine supplies it, so that a device needs no
    /// generator.
    pub uniform: f64,
}

pub trait Backend: Send {
    fn config(&self) -> &GptConfig;

    /// Returns the bytes of one page of keys and values, over all layers.
    fn page_bytes(&self) -> usize;

    /// Returns how many of the `wanted` pages the cache can have; fewer if the backend has preallocated less memory.
    fn room_for(&self, wanted: usize) -> usize {
        wanted
    }

    /// Allocates pages 0 to `pages` - 1, which must be within `room_for`.
    fn reserve(&mut self, pages: usize);

    fn copy_page(&mut self, copy: PageCopy);

    /// Runs the tokens through the model, writes their keys and values into the pages, and samples a token for every
    /// draw. A sequence has at most one part in a step; pages shared by several parts are only read.
    fn run(&mut self, step: &StepInput) -> Vec<Drawn>;

    /// Returns the log-probabilities of `ids[1..]` and of the `top` likeliest tokens at each position, without using
    /// the cache.
    fn score(&mut self, ids: &[u32], top: usize) -> Vec<Logprobs>;

    /// Switches to the weights of `model`, which has the same sizes. The contents of all pages become invalid.
    fn refresh(&mut self, model: &Gpt);

    /// Whether some weights are shared with the model instead of copied.
    fn shares_weights(&self) -> bool {
        false
    }
}

pub struct ModelBackend {
    model: Gpt,
    dtype: Dtype,
    layers: Vec<KvPages>,
}

impl ModelBackend {
    /// Makes a backend for a model on the CPU, with its weights packed as `dtype`.
    pub fn new(model: &Gpt, dtype: Dtype) -> ModelBackend {
        let config = model.config;
        let layer = |_| KvPages::new(config.n_kv_head, config.head_dim());
        let layers = (0..config.n_layer).map(layer).collect();
        ModelBackend { model: model.packed(dtype), dtype, layers }
    }

    /// Returns the logits (parts with draws, V), and for every part its row in them.
    fn forward(&mut self, step: &StepInput) -> (Option<Tensor>, Vec<Option<usize>>) {
        let parts = &step.parts;
        let ids: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let seen: Vec<CachedRow> = parts
            .iter()
            .flat_map(|part| {
                let lengths = part.start + 1..=part.start + part.tokens.len();
                lengths.map(|len| CachedRow { pages: part.pages, len })
            })
            .collect();
        let positions: Arc<[usize]> = seen.iter().map(|row| row.len - 1).collect();
        let (tape, n, layers) = (Tape::off(), ids.len(), &mut self.layers);
        let x = self.model.hidden(&tape, &ids, [1, n], &positions, &mut |layer, q, k, v| {
            let cache = &mut layers[layer];
            let (width, k, v) = (k.len() / n, k.host(), v.host());
            let rows = k.chunks_exact(width).zip(v.chunks_exact(width));
            seen.iter().zip(rows).for_each(|(row, (k, v))| cache.write(row.pages, row.len - 1, k, v));
            let q = q.reshape(&[n, q.shape()[2], q.shape()[3]]);
            tape.attention_with_kv_cache(&q, cache, &seen, None)
        });
        let mut row_of = vec![None; parts.len()];
        step.draws.iter().for_each(|draw| row_of[draw.part] = Some(0));
        let mut last_tokens = Vec::new();
        let mut end = 0;
        for (part, row) in parts.iter().zip(&mut row_of) {
            end += part.tokens.len();
            if row.is_some() {
                *row = Some(last_tokens.len());
                last_tokens.push(end - 1);
            }
        }
        let logits = (!last_tokens.is_empty()).then(|| self.model.unembed(&x.gather_rows(&last_tokens)));
        (logits, row_of)
    }
}

impl Backend for ModelBackend {
    fn config(&self) -> &GptConfig {
        &self.model.config
    }

    fn page_bytes(&self) -> usize {
        let config = &self.model.config;
        2 * config.n_layer * config.kv_dim() * PAGE * size_of::<f32>()
    }

    fn reserve(&mut self, pages: usize) {
        self.layers.iter_mut().for_each(|layer| layer.grow(pages));
    }

    fn copy_page(&mut self, copy: PageCopy) {
        self.layers.iter_mut().for_each(|layer| layer.copy_page(copy.from, copy.to));
    }

    fn run(&mut self, step: &StepInput) -> Vec<Drawn> {
        // Runs inside the thread pool from here on: entering it for each small loop of a step costs more than the loop.
        rayon::scope(|_| {
            let (Some(logits), row_of) = self.forward(step) else { return Vec::new() };
            let v = logits.cols();
            let draw = |draw: &Draw| {
                let row = row_of[draw.part].expect("parts that are drawn from have a row");
                sample(&logits.data()[row * v..][..v], draw.seen, draw.options, draw.uniform)
            };
            step.draws.par_iter().map(draw).collect()
        })
    }

    fn score(&mut self, ids: &[u32], top: usize) -> Vec<Logprobs> {
        rayon::scope(|_| score(&self.model, ids, top))
    }

    fn refresh(&mut self, model: &Gpt) {
        self.model = model.packed(self.dtype);
    }

    /// True for the embedding, which packing does not copy.
    fn shares_weights(&self) -> bool {
        true
    }
}
