//! Runs a step on a GPU. Sequences with one new token each use a recorded step (decode.rs); prompts run side by side as
//! one chunk. Keys and values stay in pages on the card, tokens are sampled there, and only their ids are copied back.

use nanochat_tensor::ops::sample::{Choice, Chosen, Penalties, choose, log_probabilities};
use nanochat_tensor::ops::softcapped_logits;
use nanochat_tensor::{Chunk, ChunkPart, DecodeRow, Device, PAGE, PagedKv, Tensor};

use super::EngineOptions;
use super::backend::{Backend, Draw, SequencePart, StepInput};
use super::decode::DecodeStep;
use super::pages::PageCopy;
use crate::engine::sampler::{Drawn, Logprobs, SampleOptions};
use crate::model::config::GptConfig;
use crate::model::gpt::{Gpt, JoinedWeights, hidden_in_chunk};

/// The rows of logits computed at a time when a text is scored: 64 MiB at a vocabulary of 65,536.
const SCORED_ROWS: usize = 256;

pub struct CudaBackend {
    device: Device,
    model: JoinedWeights,
    cache: PagedKv,
    decode: DecodeStep,
    /// The pages to copy before the next step.
    copies: Vec<[u32; 2]>,
}

impl CudaBackend {
    /// Makes a backend on the GPU that holds the model. Allocates the memory of the cache at once.
    pub fn new(model: &Gpt, options: EngineOptions) -> CudaBackend {
        let (device, config, d) = (model.device(), model.config, model.config.head_dim());
        let model = JoinedWeights::new(model);
        let pages = options.pages(&config, PagedKv::page_bytes(config.n_layer, config.n_kv_head, d));
        let one_row = config.sequence_len.div_ceil(PAGE);
        let cache = PagedKv::that_fits(&device, config.n_layer, one_row..=pages, config.n_kv_head, d);
        let decode = DecodeStep::new(&model, &cache, options.max_rows.max(1));
        CudaBackend { device, model, cache, decode, copies: Vec::new() }
    }

    fn copy_pages(&mut self) {
        if !self.copies.is_empty() {
            self.cache.copy_pages(&std::mem::take(&mut self.copies));
        }
    }

    /// Runs parts of one token each.
    fn run_rows(&mut self, step: &StepInput, parts: &[usize], draws: &[&Draw]) -> Vec<Drawn> {
        if parts.is_empty() {
            return Vec::new();
        }
        let row = |&part: &usize| {
            let SequencePart { tokens, start, pages } = step.parts[part];
            DecodeRow { token: tokens[0], position: start, pages }
        };
        let rows: Vec<DecodeRow> = parts.iter().map(row).collect();
        let logits = self.decode.run(&self.model, &self.cache, &rows);
        let place = |draw: &&Draw| parts.binary_search(&draw.part).expect("a part of this step");
        chosen(logits, &draws.iter().map(place).collect::<Vec<usize>>(), draws)
    }

    /// Runs parts of several tokens each.
    fn run_prompts(&mut self, step: &StepInput, parts: &[usize], draws: &[&Draw]) -> Vec<Drawn> {
        if parts.is_empty() {
            return Vec::new();
        }
        let part = |&part: &usize| {
            let SequencePart { tokens, start, pages } = step.parts[part];
            ChunkPart { ids: tokens, start, pages }
        };
        let new: Vec<ChunkPart> = parts.iter().map(part).collect();
        // Keeps the last token of each part with draws once, and for every draw its row among them.
        let (mut kept, mut rows, mut end, mut draws_left) =
            (Vec::new(), Vec::new(), 0, draws.iter().peekable());
        for (part, new) in parts.iter().zip(&new) {
            end += new.ids.len();
            if draws_left.peek().is_some_and(|draw| draw.part == *part) {
                kept.push(end - 1);
            }
            while draws_left.next_if(|draw| draw.part == *part).is_some() {
                rows.push(kept.len() - 1);
            }
        }
        let chunk = Chunk::new(&self.device, &new, &kept);
        let x = hidden_in_chunk(&self.model, &chunk, &mut self.cache);
        if kept.is_empty() {
            return Vec::new();
        }
        let x = chunk.keep(&x, self.model.config.rms_norm_eps);
        chosen(&softcapped_logits(&x, &self.model.weights.lm_head), &rows, draws)
    }
}

/// Samples a token for each draw from its row of logits (.., V).
fn chosen(logits: &Tensor, rows: &[usize], draws: &[&Draw]) -> Vec<Drawn> {
    let choices: Vec<Choice> = draws.iter().zip(rows).map(|(draw, &row)| choice(draw, row)).collect();
    if choices.is_empty() {
        return Vec::new();
    }
    let chosen = choose(logits, &choices);
    let most = draws.iter().filter_map(|draw| draw.options.logprobs).max();
    let logprobs = most.map_or_else(Vec::new, |top| log_probabilities(logits, rows, &chosen, top));
    let mut logprobs = logprobs.into_iter();
    let drawn = |(id, draw): (u32, &&Draw)| {
        let of_draw = logprobs.next().zip(draw.options.logprobs).map(|(found, top)| Logprobs {
            chosen: found.chosen,
            top: found.top.into_iter().take(top).collect(),
        });
        Drawn { id, logprobs: of_draw }
    };
    chosen.ids().into_iter().zip(draws).map(drawn).collect()
}

fn choice<'a>(draw: &Draw<'a>, row: usize) -> Choice<'a> {
    let SampleOptions { temperature, top_k, top_p, min_p, .. } = *draw.options;
    let SampleOptions { repetition_penalty, presence_penalty, frequency_penalty, .. } = *draw.options;
    let is_penalized = (repetition_penalty, presence_penalty, frequency_penalty) != (1.0, 0.0, 0.0);
    let penalties = is_penalized.then_some(Penalties {
        repetition: repetition_penalty,
        presence: presence_penalty,
        frequency: frequency_penalty,
        prompt: draw.seen.prompt,
        answer: draw.seen.answer,
    });
    Choice { row, uniform: draw.uniform, temperature, top_k, top_p, min_p, penalties }
}

impl Backend for CudaBackend {
    fn config(&self) -> &GptConfig {
        &self.model.config
    }

    fn page_bytes(&self) -> usize {
        let config = &self.model.config;
        PagedKv::page_bytes(config.n_layer, config.n_kv_head, config.head_dim())
    }

    fn room_for(&self, wanted: usize) -> usize {
        wanted.min(self.cache.pages())
    }

    fn reserve(&mut self, _pages: usize) {}

    fn copy_page(&mut self, copy: PageCopy) {
        // The copies run in parallel, so a copy onto a page that another one reads must wait for it.
        if self.copies.iter().any(|&[from, _]| from == copy.to) {
            self.copy_pages();
        }
        self.copies.push([copy.from, copy.to]);
    }

    fn run(&mut self, step: &StepInput) -> Vec<Drawn> {
        self.copy_pages();
        let is_row = |part: usize| step.parts[part].tokens.len() == 1;
        let (rows, prompts): (Vec<usize>, Vec<usize>) = (0..step.parts.len()).partition(|&part| is_row(part));
        let (of_rows, of_prompts): (Vec<&Draw>, Vec<&Draw>) =
            step.draws.iter().partition(|draw| is_row(draw.part));
        let mut of_rows = self.run_rows(step, &rows, &of_rows).into_iter();
        let mut of_prompts = self.run_prompts(step, &prompts, &of_prompts).into_iter();
        let drawn = |draw: &Draw| if is_row(draw.part) { of_rows.next() } else { of_prompts.next() };
        step.draws.iter().filter_map(drawn).collect()
    }

    fn score(&mut self, ids: &[u32], top: usize) -> Vec<Logprobs> {
        let Some((_, inputs)) = ids.split_last().filter(|(_, inputs)| !inputs.is_empty()) else {
            return Vec::new();
        };
        let config = self.model.config;
        let pages: Vec<u32> = (0..inputs.len().div_ceil(PAGE) as u32).collect();
        let mut cache = PagedKv::new(&self.device, 1, pages.len(), config.n_kv_head, config.head_dim());
        let kept: Vec<usize> = (0..inputs.len()).collect();
        let chunk = Chunk::new(&self.device, &[ChunkPart { ids: inputs, start: 0, pages: &pages }], &kept);
        let x = chunk.keep(&hidden_in_chunk(&self.model, &chunk, &mut cache), config.rms_norm_eps); // (N, C)
        let mut scores = Vec::with_capacity(inputs.len());
        for (rows, ids) in kept.chunks(SCORED_ROWS).zip(ids[1..].chunks(SCORED_ROWS)) {
            let logits = softcapped_logits(&x.gather_rows(rows), &self.model.weights.lm_head);
            let places: Vec<usize> = (0..rows.len()).collect();
            let found = log_probabilities(&logits, &places, &Chosen::from_ids(&logits, ids), top);
            scores.extend(found.into_iter().map(|found| Logprobs { chosen: found.chosen, top: found.top }));
        }
        scores
    }

    fn refresh(&mut self, model: &Gpt) {
        self.model.refresh(model);
    }
}
