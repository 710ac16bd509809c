//! The state of one sample that is being generated, with its tool use.

use std::ops::Range;
use std::sync::Arc;

use nanochat_tensor::Rng;
use nanochat_tokenizer::Tokenizer;

use super::pages::{Owner, PagedSequence};
use super::request::{Event, Finish, Request, RequestId};
use crate::conversation::PartKind;
use crate::conversation::answer::{AnswerReader, Token};
use crate::conversation::calculator::calculate;
use crate::engine::sampler::{Drawn, Seen};

/// A row of the batch. Until its prompt is computed it stands for all remaining samples of the request.
pub(super) struct SampleRow {
    pub id: RequestId,
    pub owner: Owner,
    pub request: Arc<Request>,
    pub samples: Range<usize>,
    /// The prompt and everything after it; tokens beyond `sequence` are not in the cache yet.
    pub ids: Vec<u32>,
    pub sequence: PagedSequence,
    rng: Rng,
    answer: AnswerReader,
    /// The tokens of the python block that is being written.
    python: Option<Vec<u32>>,
}

/// The tools and stop tokens of all rows. Without a tokenizer a row ends only by its length.
pub(super) struct Tools<'t> {
    tokenizer: Option<&'t Tokenizer>,
    reader: AnswerReader,
}

impl<'t> Tools<'t> {
    pub fn new(tokenizer: Option<&'t Tokenizer>) -> Tools<'t> {
        Tools { tokenizer, reader: tokenizer.map_or_else(AnswerReader::of_text, AnswerReader::new) }
    }

    /// Returns a reader at the start of an answer.
    pub fn reader(&self) -> AnswerReader {
        self.reader.clone()
    }

    /// Returns the tokens to force after a python block. An expression that the calculator refuses has no result, and
    /// the model continues by itself.
    fn answer(&self, python: &[u32]) -> Vec<u32> {
        let result = |tokenizer: &Tokenizer| {
            let (start, end) = PartKind::PythonOutput.around()?;
            let (start, end) = (tokenizer.special(start)?, tokenizer.special(end)?);
            let result = calculate(&tokenizer.decode(python))?;
            Some([vec![start], tokenizer.encode(&result), vec![end]].concat())
        };
        self.tokenizer.and_then(result).unwrap_or_default()
    }
}

impl SampleRow {
    /// Makes a row; `answer` reads its answer from the start.
    pub fn new(
        id: RequestId,
        owner: Owner,
        request: Arc<Request>,
        samples: Range<usize>,
        answer: AnswerReader,
    ) -> SampleRow {
        let rng = stream(&request, samples.start);
        let (ids, sequence) = (request.prompt.clone(), PagedSequence::default());
        SampleRow { id, owner, request, samples, ids, sequence, rng, answer, python: None }
    }

    /// Takes the first `most` samples off a row that stands for several, each as a row without pages.
    pub fn split(&mut self, most: usize) -> Vec<SampleRow> {
        if self.samples.len() == 1 {
            return Vec::new();
        }
        let (first, last) = (self.samples.start, self.samples.end);
        let rest = last.min(first + most);
        self.samples = rest..last;
        self.rng = stream(&self.request, rest);
        let row = |sample: usize| {
            let (request, answer) = (self.request.clone(), self.answer.clone());
            SampleRow::new(self.id, self.owner, request, sample..sample + 1, answer)
        };
        (first..rest).map(row).collect()
    }

    /// Returns the number of tokens that are not in the cache yet: at least one.
    pub fn pending(&self) -> usize {
        self.ids.len() - self.sequence.len()
    }

    /// Returns the sort key of a row: older requests come first, and the samples of a request side by side.
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

    /// Appends a sampled token and what a tool answers to it. Returns the finish reason if the row is over.
    pub fn take(
        &mut self,
        drawn: Drawn,
        tools: &Tools,
        context: usize,
        events: &mut Vec<Event>,
    ) -> Option<Finish> {
        let (request, sample) = (self.id, self.samples.start);
        let token = self.answer.read(drawn.id);
        if token == Token::Stops {
            events.push(Event::Stop { request, sample, id: drawn.id, logprobs: drawn.logprobs });
            return Some(Finish::Stop);
        }
        let forced = self.follow_tool(drawn.id, token, tools);
        let drawn = (drawn.id, drawn.logprobs, false);
        for (id, logprobs, forced) in
            std::iter::once(drawn).chain(forced.into_iter().map(|id| (id, None, true)))
        {
            if forced {
                self.answer.read(id);
            }
            self.ids.push(id);
            events.push(Event::Token { request, sample, id, logprobs, forced });
            let answered = self.ids.len() - self.request.prompt.len();
            if answered >= self.request.max_tokens || self.ids.len() >= context {
                return Some(Finish::Length);
            }
        }
        None
    }

    /// Tracks python blocks; at the end of one, returns the tokens to force.
    fn follow_tool(&mut self, id: u32, token: Token, tools: &Tools) -> Vec<u32> {
        match token {
            Token::Opens(PartKind::Python) => self.python = Some(Vec::new()),
            Token::Of(PartKind::Python) => self.python.get_or_insert_default().push(id),
            Token::Closes(PartKind::Python) => {
                return self.python.take().map_or(Vec::new(), |python| tools.answer(&python));
            }
            _ => {}
        }
        Vec::new()
    }
}

/// Returns the random generator of a sample.
fn stream(request: &Request, sample: usize) -> Rng {
    Rng::new(&[request.options.seed, request.stream, sample as u64])
}
