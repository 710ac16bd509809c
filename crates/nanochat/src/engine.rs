//! Generation: prefill a prompt once, then decode one token a row and step, many rows at a time.
//!
//! A row is one sample of one request. Requests join when there is room and leave when they are done;
//! a row's tokens depend on its prompt, its options and its own random stream, never on its neighbours.
//! When `<|python_end|>` closes a block, its expression goes to the calculator, and the result is
//! forced into the row.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use nanochat_tensor::{CachedRow, Rng, Tape, Tensor};
use nanochat_tokenizer::Tokenizer;

use crate::calculator::calculate;
use crate::gpt::Gpt;
use crate::kv_cache::{KvCache, Sequence};
use crate::sampler::{SampleOptions, sample};

/// Rows decoded together. On two cores tokens a second still grow up to here.
const MAX_ROWS: usize = 64;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// Independent answers to the prompt; each draws its own first token.
    pub samples: usize,
    pub max_tokens: usize,
    pub options: SampleOptions,
    /// Tells the random streams of requests with one seed apart.
    pub stream: u64,
}

/// One sample of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Everything after the prompt, tool results included, without the token that stopped it.
    pub ids: Vec<u32>,
    /// Whether each token was forced by a tool instead of sampled.
    pub forced: Vec<bool>,
    pub finish: Finish,
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The model said so (`<|assistant_end|>` or `<|bos|>`).
    #[default]
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The caller said so.
    Cancelled,
}

/// A new token of a row, as it comes.
#[derive(Clone, Copy, Debug)]
pub struct NewToken {
    pub request: usize,
    pub sample: usize,
    pub id: u32,
}

pub struct Engine<'m> {
    model: &'m Gpt,
    tokenizer: &'m Tokenizer,
    marks: Marks,
    cache: KvCache,
}

/// The special tokens that steer generation; a tokenizer without one never meets it.
#[derive(Clone, Copy)]
struct Marks {
    stop: [Option<u32>; 2],
    python_start: Option<u32>,
    python_end: Option<u32>,
    output_start: Option<u32>,
    output_end: Option<u32>,
}

struct Row {
    request: usize,
    sample: usize,
    sequence: Sequence,
    /// Prompt and everything after it; the last token is not in the cache yet.
    ids: Vec<u32>,
    prompt_len: usize,
    forced: Vec<bool>,
    queue: VecDeque<u32>,
    /// Tokens of the python block being written.
    python: Option<Vec<u32>>,
    rng: Rng,
    finish: Option<Finish>,
}

impl<'m> Engine<'m> {
    pub fn new(model: &'m Gpt, tokenizer: &'m Tokenizer) -> Engine<'m> {
        let id = |name: &str| tokenizer.special(name);
        let marks = Marks {
            stop: [id("<|assistant_end|>"), id("<|bos|>")],
            python_start: id("<|python_start|>"),
            python_end: id("<|python_end|>"),
            output_start: id("<|output_start|>"),
            output_end: id("<|output_end|>"),
        };
        Engine { model, tokenizer, marks, cache: KvCache::new(&model.config) }
    }

    /// Tokens of prompt and answer together that the model was trained for.
    pub fn context(&self) -> usize {
        self.model.config.sequence_len
    }

    /// All samples of all requests: `[request][sample]`. `on_token` sees every token as it comes and
    /// may end its row. A prompt that leaves no room in the context is answered with nothing.
    pub fn generate(
        &mut self,
        requests: &[Request],
        mut on_token: impl FnMut(NewToken) -> ControlFlow<()>,
    ) -> Vec<Vec<Completion>> {
        let mut done: Vec<Vec<Completion>> =
            requests.iter().map(|request| vec![Completion::default(); request.samples]).collect();
        let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
        let mut rows: Vec<Row> = Vec::new();
        loop {
            while let Some(&next) = waiting.front() {
                let room = rows.is_empty() || rows.len() + requests[next].samples <= MAX_ROWS;
                if !room {
                    break;
                }
                waiting.pop_front();
                rows.extend(self.prefill(next, &requests[next], &mut on_token));
            }
            for row in rows.extract_if(.., |row| row.finish.is_some()) {
                let completion = &mut done[row.request][row.sample];
                completion.ids = row.ids[row.prompt_len..].to_vec();
                completion.forced = row.forced;
                completion.finish = row.finish.expect("only finished rows are taken out");
                self.cache.release(row.sequence);
            }
            if rows.is_empty() && waiting.is_empty() {
                return done;
            }
            if !rows.is_empty() {
                let mut logits = self.decode(&mut rows); // (rows, V)
                let v = logits.cols();
                for (row, logits) in rows.iter_mut().zip(logits.data_mut().chunks_exact_mut(v)) {
                    self.take_token(row, &requests[row.request], logits, &mut on_token);
                }
            }
        }
    }

    /// One request's rows with their first tokens, from a single pass over the prompt.
    fn prefill(
        &mut self,
        index: usize,
        request: &Request,
        on_token: &mut impl FnMut(NewToken) -> ControlFlow<()>,
    ) -> Vec<Row> {
        let (n, mut sequence) = (request.prompt.len(), self.cache.start());
        assert!(n > 0, "a prompt has at least one token (<|bos|>)");
        if n >= self.context() || request.max_tokens == 0 {
            let row = |sample| Row { finish: Some(Finish::Length), ..self.row(index, sample, request) };
            return (0..request.samples).map(row).collect();
        }
        self.cache.extend(&mut sequence, n);
        let (tape, cache) = (Tape::off(), &mut self.cache);
        let positions: Arc<[usize]> = (0..n).collect();
        let x = self.model.hidden(&tape, &request.prompt, [1, n], &positions, &mut |layer, q, k, v| {
            cache.write(layer, (0..n).map(|t| (&sequence, t)), k, v);
            tape.attention(q, k, v, None)
        });
        let logits = self.model.unembed(&x.slice_rows(n - 1..n));
        let rows = (0..request.samples).map(|sample| {
            let mut row = Row { sequence: self.cache.fork(&sequence), ..self.row(index, sample, request) };
            self.take_token(&mut row, request, &mut logits.data().to_vec(), on_token);
            row
        });
        let rows = rows.collect();
        self.cache.release(sequence);
        rows
    }

    fn row(&self, index: usize, sample: usize, request: &Request) -> Row {
        Row {
            request: index,
            sample,
            sequence: self.cache.start(),
            ids: request.prompt.clone(),
            prompt_len: request.prompt.len(),
            forced: Vec::new(),
            queue: VecDeque::new(),
            python: None,
            rng: Rng::new(&[request.options.seed, request.stream, sample as u64]),
            finish: None,
        }
    }

    /// Feeds the last token of every row: logits (rows, V).
    fn decode(&mut self, rows: &mut [Row]) -> Tensor {
        for row in rows.iter_mut() {
            self.cache.extend(&mut row.sequence, 1);
        }
        let n = rows.len();
        let ids: Vec<u32> = rows.iter().map(|row| row.ids[row.sequence.len() - 1]).collect();
        let positions: Arc<[usize]> = rows.iter().map(|row| row.sequence.len() - 1).collect();
        let (tape, cache) = (Tape::off(), &mut self.cache);
        let x = self.model.hidden(&tape, &ids, [1, n], &positions, &mut |layer, q, k, v| {
            let at = rows.iter().map(|row| (&row.sequence, row.sequence.len() - 1));
            cache.write(layer, at, k, v);
            let seen: Vec<CachedRow> = rows.iter().map(|row| cache.row(&row.sequence)).collect();
            let q = q.reshape(&[n, q.shape()[2], q.shape()[3]]);
            tape.attention_with_kv_cache(&q, cache.layer(layer), &seen, None)
        });
        self.model.unembed(&x)
    }

    /// The next token of a row: a forced one if a tool has spoken, else a sampled one.
    fn take_token(
        &self,
        row: &mut Row,
        request: &Request,
        logits: &mut [f32],
        on_token: &mut impl FnMut(NewToken) -> ControlFlow<()>,
    ) {
        let queued = row.queue.pop_front();
        let id = queued.unwrap_or_else(|| sample(logits, &row.ids, &request.options, &mut row.rng));
        if queued.is_none() && self.marks.stop.contains(&Some(id)) {
            row.finish = Some(Finish::Stop);
            return;
        }
        row.ids.push(id);
        row.forced.push(queued.is_some());
        if queued.is_none() {
            self.watch_tool(row, id);
        }
        let generated = row.ids.len() - row.prompt_len;
        if on_token(NewToken { request: row.request, sample: row.sample, id }).is_break() {
            row.finish = Some(Finish::Cancelled);
        } else if generated >= request.max_tokens || row.ids.len() >= self.context() {
            row.finish = Some(Finish::Length);
        }
    }

    /// Follows python blocks; at the end of one, queues what the calculator says. An expression that it
    /// refuses gets no answer, and the model goes on by itself.
    fn watch_tool(&self, row: &mut Row, id: u32) {
        let (Some(start), Some(end)) = (self.marks.output_start, self.marks.output_end) else { return };
        if Some(id) == self.marks.python_start {
            row.python = Some(Vec::new());
        } else if Some(id) == self.marks.python_end {
            let expression = row.python.take().map(|ids| self.tokenizer.decode(&ids));
            if let Some(result) = expression.and_then(|expression| calculate(&expression)) {
                row.queue.push_back(start);
                row.queue.extend(self.tokenizer.encode(&result));
                row.queue.push_back(end);
            }
        } else if let Some(python) = &mut row.python {
            python.push(id);
        }
    }
}
