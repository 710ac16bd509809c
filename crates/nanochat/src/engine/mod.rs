//! Generates text for many requests at once; chat, evaluation and reinforcement learning all use it.
//!
//! Every [`Engine::step`] runs one batch through the model: a token of every row that is decoding, and chunks of
//! prompts (Sarathi, Agrawal et al. 2023). Rows join and leave between steps (Orca, Yu et al. 2022), and prefixes that
//! an earlier row computed are not computed again. A row's tokens depend on its prompt, its options and its own
//! random stream, never on its neighbours, nor on when it was interrupted.
//!
//! When the cache is full, the youngest rows give up their pages and wait; later they go on where they were.
//! When `<|python_end|>` closes a block, its expression goes to the calculator, and the result is forced into
//! the row.
//!
//! [`backend`] computes, [`pages`] allocates the cache, `row` holds the state of a sample, and this file schedules.

pub mod backend;
mod cuda;
pub(crate) mod decode;
pub mod pages;
mod request;
mod row;
pub mod sampler;
mod scoring;

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanochat_tensor::{Device, Dtype, PAGE};
use nanochat_tokenizer::Tokenizer;

use crate::engine::sampler::{Drawn, Logprobs};
use crate::model::config::GptConfig;
use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Gpt;
use backend::{Backend, Draw, ModelBackend, SequencePart, StepInput};
use cuda::CudaBackend;
pub use pages::Owner;
use pages::PageTable;
pub use request::{Completion, Event, Finish, NewToken, Request, RequestError, RequestId};
use row::{SampleRow, Tools};

/// The settings of an engine. Only `weights` affects the answers.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// The type in which the CPU stores the weights.
    pub weights: Dtype,
    /// The maximum number of rows in the batch.
    pub max_rows: usize,
    /// The maximum number of prompt tokens in a step, in addition to one token for every decoding row; it bounds how
    /// long a new prompt delays the other rows.
    pub prompt_tokens: usize,
    /// The maximum bytes of keys and values, raised to what one row of full length takes. The CPU allocates them as
    /// needed; a GPU allocates them at once, as far as its free memory allows.
    pub cache_bytes: usize,
    /// Whether prefixes are kept for later prompts.
    pub prefix_cache: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            weights: Dtype::F32,
            max_rows: DeviceSizes::CPU.decode_rows,
            prompt_tokens: DeviceSizes::CPU.prompt_tokens,
            cache_bytes: DeviceSizes::CPU.cache_bytes,
            prefix_cache: true,
        }
    }
}

impl EngineOptions {
    /// Returns options for up to `rows` rows together on the device of the model.
    pub fn for_batch(device: &Device, rows: usize) -> EngineOptions {
        let &DeviceSizes { decode_rows, prompt_tokens, cache_bytes, .. } = DeviceSizes::of(device);
        let max_rows = rows.clamp(1, decode_rows);
        EngineOptions { max_rows, prompt_tokens, cache_bytes, ..EngineOptions::default() }
    }

    /// Returns the most pages of the cache: twice what all rows can hold, which leaves room for cached prefixes.
    fn pages(&self, config: &GptConfig, page_bytes: usize) -> usize {
        let one_row = config.sequence_len.div_ceil(PAGE);
        (self.cache_bytes / page_bytes).min(2 * self.max_rows.max(1) * one_row).max(one_row)
    }
}

/// The current load and the totals of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The rows that wait for room. A request whose prompt is not computed yet is one row.
    pub waiting: usize,
    /// The rows in the batch.
    pub running: usize,
    /// The pages of the cache that rows hold.
    pub pages_in_use: usize,
    /// The pages of the cache that are kept for later prompts.
    pub pages_idle: usize,
    /// The maximum number of pages of the cache.
    pub pages: usize,
    pub steps: u64,
    /// The tokens that the model has computed.
    pub computed_tokens: u64,
    /// The prompt tokens that were found in the prefix cache (cache hits).
    pub cache_hit_tokens: u64,
    pub generated_tokens: u64,
    /// The rows that were preempted: they gave up their pages to older ones.
    pub preemptions: u64,
    /// The time in the backend; the rest of a step is scheduling.
    pub computing: Duration,
}

pub struct Engine<'t> {
    backend: Box<dyn Backend>,
    tools: Tools<'t>,
    options: EngineOptions,
    pages: PageTable,
    reserved: usize,
    /// Oldest first, like `running`.
    waiting: VecDeque<SampleRow>,
    running: Vec<SampleRow>,
    next_id: u64,
    counts: Stats,
}

/// A row's share of a step.
struct Planned {
    row: usize,
    tokens: usize,
    /// A random number for every token to sample: none inside a prompt, one in decoding.
    uniforms: Vec<f64>,
    /// The rows that start at the end of a prompt with several samples, one for every draw.
    samples: Vec<SampleRow>,
}

impl<'t> Engine<'t> {
    /// Makes an engine that copies or shares the weights as they are now; `model` may be dropped or trained afterwards.
    pub fn new(model: &Gpt, tokenizer: &'t Tokenizer) -> Engine<'t> {
        let rows = EngineOptions::default().max_rows;
        Engine::with_options(model, Some(tokenizer), EngineOptions::for_batch(&model.device(), rows))
    }

    /// Makes an engine. Without a tokenizer there are no tools, and rows end only by their length.
    pub fn with_options(model: &Gpt, tokenizer: Option<&'t Tokenizer>, options: EngineOptions) -> Engine<'t> {
        let backend: Box<dyn Backend> = match model.device() {
            Device::Cpu => Box::new(ModelBackend::new(model, options.weights)),
            Device::Gpu(_) => Box::new(CudaBackend::new(model, options)),
        };
        Engine::over(backend, tokenizer, options)
    }

    /// Makes an engine over any backend.
    pub fn over(
        backend: Box<dyn Backend>,
        tokenizer: Option<&'t Tokenizer>,
        options: EngineOptions,
    ) -> Engine<'t> {
        let wanted = options.pages(backend.config(), backend.page_bytes());
        let capacity = backend.room_for(wanted);
        Engine {
            backend,
            tools: Tools::new(tokenizer),
            options,
            pages: PageTable::new(capacity, options.prefix_cache),
            reserved: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            counts: Stats::default(),
        }
    }

    /// Returns the context length that the model was trained for, in tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        self.backend.config().sequence_len
    }

    /// Adds a request to the queue; its events come from the steps to follow.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RequestError> {
        self.submit_for(0, request)
    }

    /// Submits a request of one of several owners. Its prompt reuses only prefixes that rows of the same owner
    /// computed, so that neither timing nor counts reveal what another owner has asked.
    pub fn submit_for(&mut self, owner: Owner, request: Request) -> Result<RequestId, RequestError> {
        let (context, vocab_size) = (self.context(), self.backend.config().vocab_size);
        let unknown = request.prompt.iter().find(|&&token| token as usize >= vocab_size);
        request.options.checked()?;
        match (request.prompt.len(), unknown) {
            (0, _) => return Err(RequestError::EmptyPrompt),
            (found, _) if found >= context => return Err(RequestError::PromptTooLong { found, context }),
            (_, Some(&token)) => return Err(RequestError::UnknownToken { token, vocab_size }),
            _ if request.samples == 0 => return Err(RequestError::Nothing { what: "samples" }),
            _ if request.max_tokens == 0 => return Err(RequestError::Nothing { what: "max_tokens" }),
            _ => {}
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let samples = 0..request.samples;
        let answer = self.tools.reader();
        self.waiting.push_back(SampleRow::new(id, owner, Arc::new(request), samples, answer));
        Ok(id)
    }

    /// Returns the log-probabilities of `ids[1..]`, each given the tokens before it, and of the `top` likeliest tokens
    /// at each position. Computes them at once, while rows wait.
    pub fn score(&mut self, ids: &[u32], top: usize) -> Result<Vec<Logprobs>, RequestError> {
        let (context, vocab_size) = (self.context(), self.backend.config().vocab_size);
        match ids.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(RequestError::UnknownToken { token, vocab_size }),
            None if ids.len() > context => Err(RequestError::PromptTooLong { found: ids.len(), context }),
            None => Ok(self.backend.score(ids, top)),
        }
    }

    /// Switches to the weights of `model`, which has the same sizes. No rows may be running. Clears the prefix cache.
    #[track_caller]
    pub fn refresh(&mut self, model: &Gpt) {
        assert!(self.is_idle(), "weights change between requests");
        self.backend.refresh(model);
        self.pages = PageTable::new(self.pages.capacity(), self.options.prefix_cache);
    }

    /// Whether the engine shares some weights with the model, so that changing the model copies them first; training is
    /// faster once such an engine is dropped.
    pub fn shares_weights(&self) -> bool {
        self.backend.shares_weights()
    }

    /// Ends a request and frees its pages at once; it has no further events. Returns false if it is over or unknown.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        self.drop_rows(|row| row.id == id)
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            waiting: self.waiting.len(),
            running: self.running.len(),
            pages_in_use: self.pages.in_use(),
            pages_idle: self.pages.idle(),
            pages: self.pages.capacity(),
            ..self.counts
        }
    }

    /// Runs one batch and returns its events; none if there is nothing to do. Never blocks.
    pub fn step(&mut self) -> Vec<Event> {
        self.admit();
        let plan = self.plan();
        if plan.is_empty() {
            return Vec::new();
        }
        let drawn = self.compute(&plan);
        self.counts.steps += 1;
        self.advance(plan, drawn)
    }

    /// Moves rows from the queue into the batch while there is room, and pages for all their known tokens.
    fn admit(&mut self) {
        while self.running.len() < self.options.max_rows.max(1)
            && let Some(row) = self.waiting.front()
        {
            let found = self.pages.find_prefix(row.owner, &row.ids);
            let missing = (row.ids.len() + 1).div_ceil(PAGE) - found.pages().len();
            let fits = missing <= self.pages.available();
            self.pages.release(found);
            if !fits && !self.running.is_empty() {
                break;
            }
            self.running.extend(self.waiting.pop_front());
        }
        self.running.sort_by_key(SampleRow::age);
    }

    /// Assigns every row its tokens of the next step and their pages, the oldest rows first.
    fn plan(&mut self) -> Vec<Planned> {
        let (mut plan, mut row) = (Vec::new(), 0);
        let (mut prompt_tokens, mut places) =
            (self.options.prompt_tokens, self.options.max_rows.max(1) - self.running.len());
        while row < self.running.len() {
            if prompt_tokens > 0 && self.running[row].sequence.is_empty() {
                // Searched only now, since earlier rows may just have computed the same prefix.
                let found = self.pages.find_prefix(self.running[row].owner, &self.running[row].ids);
                self.counts.cache_hit_tokens += found.len() as u64;
                self.running[row].sequence = found;
            }
            let pending = self.running[row].pending();
            let tokens = if pending == 1 { 1 } else { pending.min(prompt_tokens) };
            if tokens > 0 && self.make_room(row, tokens) {
                prompt_tokens -= if pending == 1 { 0 } else { tokens };
                let mut planned = Planned { row, tokens, uniforms: Vec::new(), samples: Vec::new() };
                if tokens == pending {
                    planned.samples = self.running[row].split(1 + places);
                    places -= planned.samples.len().saturating_sub(1);
                    planned.uniforms = match &mut planned.samples[..] {
                        [] => vec![self.running[row].next_uniform()],
                        samples => samples.iter_mut().map(SampleRow::next_uniform).collect(),
                    };
                }
                plan.push(planned);
            }
            row += 1;
        }
        plan
    }

    /// Extends a row's sequence, preempting younger rows if necessary. Returns false if the row itself was preempted.
    fn make_room(&mut self, row: usize, tokens: usize) -> bool {
        loop {
            if let Ok(copy) = self.pages.extend(&mut self.running[row].sequence, tokens) {
                if self.pages.touched() > self.reserved {
                    // Growing by half keeps the copies rare without doubling the memory of a long run.
                    let more = self.reserved + self.reserved / 2;
                    self.reserved = self.pages.touched().max(more).min(self.pages.capacity());
                    self.backend.reserve(self.reserved);
                }
                copy.into_iter().for_each(|copy| self.backend.copy_page(copy));
                return true;
            }
            let mut youngest = self.running.pop().expect("the row itself is there");
            self.pages.release(std::mem::take(&mut youngest.sequence));
            self.wait(youngest);
            self.counts.preemptions += 1;
            if self.running.len() == row {
                return false;
            }
        }
    }

    fn compute(&mut self, plan: &[Planned]) -> Vec<Drawn> {
        let rows = &self.running;
        let parts = plan.iter().map(|planned| {
            let (ids, end) = (&rows[planned.row].ids, rows[planned.row].sequence.len());
            let start = end - planned.tokens;
            SequencePart { tokens: &ids[start..end], start, pages: rows[planned.row].sequence.pages() }
        });
        let draws = plan.iter().enumerate().flat_map(|(part, planned)| {
            let row = &rows[planned.row];
            let draw =
                move |&uniform| Draw { part, seen: row.seen(), options: &row.request.options, uniform };
            planned.uniforms.iter().map(draw)
        });
        let step = StepInput { parts: parts.collect(), draws: draws.collect() };
        let started = Instant::now();
        let drawn = self.backend.run(&step);
        self.counts.computing += started.elapsed();
        drawn
    }

    /// Gives the rows their new tokens, and removes the finished ones.
    fn advance(&mut self, plan: Vec<Planned>, drawn: Vec<Drawn>) -> Vec<Event> {
        let mut events = Vec::new();
        let (mut plan, mut drawn) = (plan.into_iter().peekable(), drawn.into_iter());
        for (i, mut row) in std::mem::take(&mut self.running).into_iter().enumerate() {
            let Some(planned) = plan.next_if(|planned| planned.row == i) else {
                self.running.push(row);
                continue;
            };
            self.counts.computed_tokens += planned.tokens as u64;
            self.pages.remember(row.owner, &mut row.sequence, &row.ids);
            let mut drawn = drawn.by_ref().take(planned.uniforms.len());
            if planned.samples.is_empty() {
                self.take(row, drawn.next(), &mut events);
                continue;
            }
            for mut sample in planned.samples {
                sample.sequence = self.pages.fork(&row.sequence);
                self.take(sample, drawn.next(), &mut events);
            }
            self.pages.release(std::mem::take(&mut row.sequence));
            if !row.samples.is_empty() {
                self.wait(row);
            }
        }
        events
    }

    /// Gives a row the token that was sampled for it, if any.
    fn take(&mut self, mut row: SampleRow, drawn: Option<Drawn>, events: &mut Vec<Event>) {
        let (context, before) = (self.context(), row.ids.len());
        let finish = drawn.and_then(|drawn| row.take(drawn, &self.tools, context, events));
        self.counts.generated_tokens += (row.ids.len() - before) as u64;
        match finish {
            None => self.running.push(row),
            Some(finish) => {
                events.push(Event::Finished { request: row.id, sample: row.samples.start, finish });
                self.pages.release(row.sequence);
            }
        }
    }

    /// Puts a row, which holds no pages, into the queue in order of age.
    fn wait(&mut self, row: SampleRow) {
        let at = self.waiting.partition_point(|other| other.age() < row.age());
        self.waiting.insert(at, row);
    }

    /// Removes rows and frees their pages. Returns false if there were none.
    fn drop_rows(&mut self, is_over: impl Fn(&SampleRow) -> bool) -> bool {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|row| !is_over(row));
        for row in self.running.extract_if(.., |row| is_over(row)) {
            self.pages.release(row.sequence);
        }
        self.waiting.len() + self.running.len() < before
    }

    /// Generates all samples of all requests: `[request][sample]`. `on_token` is called with every token as it comes
    /// and may end its row. A prompt that leaves no room in the context gets an empty answer; any other invalid request
    /// is a bug and panics.
    pub fn generate(
        &mut self,
        requests: &[Request],
        mut on_token: impl FnMut(NewToken) -> ControlFlow<()>,
    ) -> Vec<Vec<Completion>> {
        assert!(self.is_idle(), "generate takes the events of all requests, and others are under way");
        let mut done: Vec<Vec<Completion>> =
            requests.iter().map(|request| vec![Completion::default(); request.samples]).collect();
        let mut index_of = HashMap::new();
        for (index, request) in requests.iter().enumerate().filter(|(_, request)| request.samples > 0) {
            if request.prompt.len() >= self.context() || request.max_tokens == 0 {
                done[index].iter_mut().for_each(|completion| completion.finish = Finish::Length);
                continue;
            }
            let id = self.submit(request.clone()).unwrap_or_else(|error| panic!("request {index}: {error}"));
            index_of.insert(id, index);
        }
        while !self.is_idle() {
            for event in self.step() {
                match event {
                    Event::Stop { request, sample, id, .. } => {
                        done[index_of[&request]][sample].stop = Some(id);
                    }
                    Event::Finished { request, sample, finish } => {
                        let completion = &mut done[index_of[&request]][sample];
                        if completion.finish != Finish::Cancelled {
                            completion.finish = finish;
                        }
                    }
                    Event::Token { request: of, sample, id, logprobs, forced } => {
                        let request = index_of[&of];
                        let completion = &mut done[request][sample];
                        if completion.finish == Finish::Cancelled {
                            continue; // forced together with the token at which the caller ended the row
                        }
                        completion.ids.push(id);
                        completion.forced.push(forced);
                        completion.logprobs.extend(logprobs);
                        if on_token(NewToken { request, sample, id }).is_break() {
                            completion.finish = Finish::Cancelled;
                            self.drop_rows(|row| row.id == of && row.samples == (sample..sample + 1));
                        }
                    }
                }
            }
        }
        done
    }
}
