//! One sample of a request on its way, and the tools inside it.

use std::ops::Range;
use std::sync::Arc;

use nanochat_tensor::Rng;
use nanochat_tokenizer::Tokenizer;

use super::pages::Sequence;
use super::request::{Event, Finish, Request, RequestId};
use crate::calculator::calculate;
use crate::sampler::{Drawn, Seen};

/// A row of the batch. Until its prompt is computed it stands for all samples of the request that are left.
pub(super) struct Row {
    pub id: RequestId,
    pub request: Arc<Request>,
    pub samples: Range<usize>,
    /// Prompt and everything after it; what is beyond `sequence` is not in the cache yet.
    pub ids: Vec<u32>,
    pub sequence: Sequence,
    rng: Rng,
    /// Tokens of the python block being written.
    python: Option<Vec<u32>>,
}

/// What steers all rows: the tokenizer's special tokens. Without a tokenizer nothing stops a row but its length.
pub(super) struct Marks<'t> {
    tokenizer: Option<&'t Tokenizer>,
    stop: [Option<u32>; 2],
    python_start: Option<u32>,
    python_end: Option<u32>,
    output: Option<(u32, u32)>,
}

impl<'t> Marks<'t> {
    pub fn new(tokenizer: Option<&'t Tokenizer>) -> Marks<'t> {
        let id = |name: &str| tokenizer?.special(name);
        Marks {
            tokenizer,
            stop: [id("<|assistant_end|>"), id("<|bos|>")],
            python_start: id("<|python_start|>"),
            python_end: id("<|python_end|>"),
            output: id("<|output_start|>").zip(id("<|output_end|>")),
        }
    }

    /// The tokens that answer a python block. An expression that the calculator refuses gets no answer, and the
    /// model goes on by itself.
    fn answer(&self, python: &[u32]) -> Vec<u32> {
        let (Some(tokenizer), Some((start, end))) = (self.tokenizer, self.output) else { return Vec::new() };
        match calculate(&tokenizer.decode(python)) {
            Some(result) => [vec![start], tokenizer.encode(&result), vec![end]].concat(),
            None => Vec::new(),
        }
    }
}

impl Row {
    pub fn new(id: RequestId, request: Arc<Request>, samples: Range<usize>) -> Row {
        let rng = stream(&request, samples.start);
        let (ids, sequence) = (request.prompt.clone(), Sequence::default());
        Row { id, request, samples, ids, sequence, rng, python: None }
    }

    /// Of a row that stands for several samples, the first `most`, each as a row without pages; it keeps the rest.
    pub fn split(&mut self, most: usize) -> Vec<Row> {
        if self.samples.len() == 1 {
            return Vec::new();
        }
        let (first, last) = (self.samples.start, self.samples.end);
        let rest = last.min(first + most);
        self.samples = rest..last;
        self.rng = stream(&self.request, rest);
        (first..rest).map(|sample| Row::new(self.id, self.request.clone(), sample..sample + 1)).collect()
    }

    /// Tokens that are not in the cache yet: at least one.
    pub fn pending(&self) -> usize {
        self.ids.len() - self.sequence.len()
    }

    /// Older rows come first, and the samples of a request side by side.
    pub fn age(&self) -> (RequestId, usize) {
        (self.id, self.samples.start)
    }

    pub fn seen(&self) -> Seen<'_> {
        let (prompt, answer) = self.ids.split_at(self.request.prompt.len());
        Seen { prompt, answer }
    }

    pub fn next_uniform(&mut self) -> f64 {
        self.rng.uniform()
    }

    /// Takes a drawn token, and what a tool has to say to it. Some: the row is over.
    pub fn take(
        &mut self,
        drawn: Drawn,
        marks: &Marks,
        context: usize,
        events: &mut Vec<Event>,
    ) -> Option<Finish> {
        let (request, sample) = (self.id, self.samples.start);
        if marks.stop.contains(&Some(drawn.id)) {
            events.push(Event::Stop { request, sample, id: drawn.id, logprobs: drawn.logprobs });
            return Some(Finish::Stop);
        }
        let forced = self.follow_tool(drawn.id, marks);
        let drawn = (drawn.id, drawn.logprobs, false);
        for (id, logprobs, forced) in
            std::iter::once(drawn).chain(forced.into_iter().map(|id| (id, None, true)))
        {
            self.ids.push(id);
            events.push(Event::Token { request, sample, id, logprobs, forced });
            let answered = self.ids.len() - self.request.prompt.len();
            if answered >= self.request.max_tokens || self.ids.len() >= context {
                return Some(Finish::Length);
            }
        }
        None
    }

    /// Follows python blocks; at the end of one, the tokens to be forced.
    fn follow_tool(&mut self, id: u32, marks: &Marks) -> Vec<u32> {
        if Some(id) == marks.python_start {
            self.python = Some(Vec::new());
        } else if Some(id) == marks.python_end {
            return self.python.take().map_or(Vec::new(), |python| marks.answer(&python));
        } else if let Some(python) = &mut self.python {
            python.push(id);
        }
        Vec::new()
    }
}

/// The random stream of a sample.
fn stream(request: &Request, sample: usize) -> Rng {
    Rng::new(&[request.options.seed, request.stream, sample as u64])
}
