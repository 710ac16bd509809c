//! Tests the engine's scheduling with a backend that computes nothing but checks everything: every page must hold the
//! history of the row that reads it, and every answer must equal that of the request alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use nanochat::engine::backend::{Backend, StepInput};
use nanochat::engine::pages::PageCopy;
use nanochat::engine::sampler::{Drawn, Logprobs, SampleOptions};
use nanochat::engine::{Engine, EngineOptions, Event, Finish, Request, RequestId};
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat_tensor::{PAGE, Rng};

const CONTEXT: usize = 6 * PAGE;
const VOCAB: usize = 1_000;

/// A backend whose pages hold, instead of keys and values, the token of every position and a hash of all tokens up to
/// it.
#[derive(Default)]
struct Checker {
    pages: Vec<[(u32, u64); PAGE]>,
    config: Option<GptConfig>,
    most_rows: Arc<Mutex<usize>>,
}

/// Returns the hash of a history with one more token; it also serves as the model.
fn hash(before: u64, next: u64) -> u64 {
    Rng::new(&[before, next]).next_u64()
}

fn next_token(history: u64, uniform: f64) -> u32 {
    (hash(history, uniform.to_bits()) % VOCAB as u64) as u32
}

impl Backend for Checker {
    fn config(&self) -> &GptConfig {
        self.config.as_ref().unwrap()
    }

    fn page_bytes(&self) -> usize {
        1
    }

    fn reserve(&mut self, pages: usize) {
        assert!(pages > self.pages.len());
        self.pages.resize(pages, [(0, 0); PAGE]);
    }

    fn copy_page(&mut self, copy: PageCopy) {
        self.pages[copy.to as usize] = self.pages[copy.from as usize];
    }

    fn score(&mut self, _: &[u32], _: usize) -> Vec<Logprobs> {
        unreachable!("no text is scored here")
    }

    fn refresh(&mut self, _: &Gpt) {
        unreachable!("there are no weights here")
    }

    fn run(&mut self, step: &StepInput) -> Vec<Drawn> {
        let mut most_rows = self.most_rows.lock().unwrap();
        *most_rows = step.parts.len().max(*most_rows);
        let mut written = HashSet::new();
        for part in &step.parts {
            for (position, &token) in (part.start..).zip(part.tokens) {
                let before = position.checked_sub(1).map_or(0, |before| self.at(part.pages, before).1);
                let (page, slot) = (part.pages[position / PAGE], position % PAGE);
                assert!(written.insert((page, slot)), "two rows write to one place");
                self.pages[page as usize][slot] = (token, hash(before, u64::from(token)));
            }
        }
        // Checked after all writes, so that no row has changed the history of another.
        let histories: Vec<u64> = step.parts.iter().map(|part| self.check(part)).collect();
        let draw = |draw: &nanochat::engine::backend::Draw| {
            let part = &step.parts[draw.part];
            let row = draw.seen.prompt.iter().chain(draw.seen.answer);
            assert_eq!(draw.seen.prompt.len() + draw.seen.answer.len(), part.start + part.tokens.len());
            for (position, &token) in row.enumerate() {
                assert_eq!(self.at(part.pages, position).0, token, "the row's own tokens at {position}");
            }
            Drawn { id: next_token(histories[draw.part], draw.uniform), logprobs: None }
        };
        step.draws.iter().map(draw).collect()
    }
}

impl Checker {
    fn at(&self, pages: &[u32], position: usize) -> (u32, u64) {
        self.pages[pages[position / PAGE] as usize][position % PAGE]
    }

    fn check(&self, part: &nanochat::engine::backend::SequencePart) -> u64 {
        let mut history = 0;
        for position in 0..part.start + part.tokens.len() {
            let (token, found) = self.at(part.pages, position);
            history = hash(history, u64::from(token));
            assert_eq!(found, history, "position {position} holds another row's history");
        }
        history
    }
}

fn engine(pages: usize, max_rows: usize, prefix_cache: bool) -> (Engine<'static>, Arc<Mutex<usize>>) {
    let config =
        GptConfig { sequence_len: CONTEXT, vocab_size: VOCAB, ..GptConfig::from_depth(1, 10, 8).unwrap() };
    let checker = Checker { config: Some(config), ..Checker::default() };
    let most_rows = checker.most_rows.clone();
    let options = EngineOptions {
        max_rows,
        prompt_tokens: 100,
        cache_bytes: pages,
        prefix_cache,
        ..EngineOptions::default()
    };
    (Engine::over(Box::new(checker), None, options), most_rows)
}

/// Returns the expected sample, computed without an engine.
fn answer_alone(request: &Request, sample: usize) -> Vec<u32> {
    let mut rng = Rng::new(&[request.options.seed, request.stream, sample as u64]);
    let mut history = request.prompt.iter().fold(0, |history, &token| hash(history, u64::from(token)));
    let len = request.max_tokens.min(CONTEXT - request.prompt.len());
    let token = |_| {
        let id = next_token(history, rng.uniform());
        history = hash(history, u64::from(id));
        id
    };
    (0..len).map(token).collect()
}

/// Returns a random request; prompts often share prefixes, as conversations and samples do.
fn random_request(rng: &mut Rng, earlier: &[Vec<u32>]) -> Request {
    let mut prompt = Vec::new();
    if !earlier.is_empty() && rng.below(3) > 0 {
        let other = rng.choose(earlier);
        prompt.extend(&other[..rng.below(other.len()) + 1]);
    }
    prompt.extend((0..rng.below(2 * PAGE) + 1).map(|_| rng.below(3) as u32));
    prompt.truncate(CONTEXT - 1);
    let samples = if rng.below(3) == 0 { 1 + rng.below(9) } else { 1 };
    let options = SampleOptions { seed: rng.next_u64(), ..SampleOptions::default() };
    Request { prompt, samples, max_tokens: 1 + rng.below(100), options, stream: rng.next_u64() }
}

#[derive(Default)]
struct Book {
    open: BTreeMap<RequestId, Request>,
    answers: HashMap<(RequestId, usize), Vec<u32>>,
    finished: HashMap<RequestId, usize>,
    done: usize,
}

impl Book {
    fn read(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Token { request, sample, id, .. } => {
                    assert!(self.open.contains_key(&request), "{request:?} is over or was cancelled");
                    self.answers.entry((request, sample)).or_default().push(id);
                }
                Event::Stop { .. } => panic!("without a tokenizer no token stops a row"),
                Event::Finished { request, sample, finish } => {
                    let asked = &self.open[&request];
                    assert_eq!(finish, Finish::Length);
                    let answer = self.answers.remove(&(request, sample)).unwrap();
                    assert_eq!(answer, answer_alone(asked, sample), "sample {sample} of {request:?}");
                    let finished = self.finished.entry(request).or_default();
                    *finished += 1;
                    if *finished == asked.samples {
                        self.open.remove(&request);
                        self.done += 1;
                    }
                }
            }
        }
    }
}

/// Runs random requests and cancellations on a cache that is nearly always full.
fn random_events(seed: u64, events: usize, pages: usize, max_rows: usize, prefix_cache: bool) {
    let (mut engine, most_rows) = engine(pages, max_rows, prefix_cache);
    let (mut rng, mut book) = (Rng::new(&[seed]), Book::default());
    let (mut prompts, mut cancelled) = (Vec::new(), 0);
    for _ in 0..events {
        match rng.below(12) {
            0 | 1 if book.open.len() < 20 => {
                let request = random_request(&mut rng, &prompts);
                prompts.push(request.prompt.clone());
                let id = engine.submit(request.clone()).unwrap();
                book.open.insert(id, request);
            }
            2 if rng.below(4) == 0 && !book.open.is_empty() => {
                let id = *rng.choose(&book.open.keys().copied().collect::<Vec<_>>());
                assert!(engine.cancel(id));
                assert!(!engine.cancel(id), "it is gone at once");
                book.open.remove(&id);
                book.answers.retain(|(request, _), _| *request != id);
                cancelled += 1;
            }
            _ => book.read(engine.step()),
        }
        let stats = engine.stats();
        assert!(stats.pages_in_use + stats.pages_idle <= stats.pages && stats.running <= max_rows);
        assert!(stats.running > 0 || stats.pages_in_use == 0, "pages without rows");
    }
    while !engine.is_idle() {
        book.read(engine.step());
    }
    assert!(book.open.is_empty(), "lost: {:?}", book.open.keys());
    let stats = engine.stats();
    assert_eq!((stats.pages_in_use, stats.waiting, stats.running), (0, 0, 0));
    assert!(engine.step().is_empty());
    assert!(
        book.done > events / 100 && cancelled > events / 200,
        "{} done, {cancelled} cancelled",
        book.done
    );
    assert!(stats.preemptions > 0 && *most_rows.lock().unwrap() == max_rows, "{stats:?}");
    assert_eq!(stats.cache_hit_tokens > 0, prefix_cache);
}

#[test]
fn ten_thousand_random_events_lose_nothing_and_mix_nothing_up() {
    random_events(1, 4_000, 9, 6, true);
    random_events(2, 4_000, 9, 6, false);
    random_events(3, 2_000, 6, 4, true);
}

#[test]
fn samples_of_one_prompt_own_its_pages_together() {
    let (mut engine, _) = engine(100, 32, false);
    let prompt = vec![7; 2 * PAGE + 10];
    let options = SampleOptions::default();
    let request = Request { prompt, samples: 8, max_tokens: 4, options, stream: 0 };
    engine.submit(request).unwrap();
    while engine.stats().generated_tokens < 16 {
        engine.step();
    }
    // All samples share two full pages, and each has its own copy of the third.
    assert_eq!(engine.stats().pages_in_use, 2 + 8);
    assert_eq!(engine.stats().computed_tokens, 2 * PAGE as u64 + 10 + 8);
}

#[test]
fn the_next_turn_computes_only_what_is_new() {
    let (mut engine, _) = engine(100, 4, true);
    let ask = |prompt: Vec<u32>| Request {
        prompt,
        samples: 1,
        max_tokens: PAGE,
        options: SampleOptions::default(),
        stream: 0,
    };
    let mut run = |request: &Request| {
        let before = engine.stats();
        let answer = engine.generate(std::slice::from_ref(request), |_| std::ops::ControlFlow::Continue(()));
        let stats = engine.stats();
        let computed = stats.computed_tokens - before.computed_tokens;
        (
            answer[0][0].ids.clone(),
            computed as usize,
            (stats.cache_hit_tokens - before.cache_hit_tokens) as usize,
        )
    };
    let first = ask((0..2 * PAGE as u32).collect());
    let (answer, computed, cache_hits) = run(&first);
    assert_eq!((computed, cache_hits), (3 * PAGE - 1, 0));
    let second = ask([first.prompt, answer, vec![1, 2, 3]].concat());
    // The model never read the answer's last token: two pages of the prompt can be found, but not the answer's single,
    // partial one.
    let (_, computed, cache_hits) = run(&second);
    assert_eq!((computed, cache_hits), (PAGE + 3 + PAGE - 1, 2 * PAGE));
}

#[test]
fn mistakes_are_refused_with_a_sentence() {
    let (mut engine, _) = engine(8, 2, true);
    let good =
        Request { prompt: vec![1], samples: 1, max_tokens: 1, options: SampleOptions::default(), stream: 0 };
    let mut refused = |change: &dyn Fn(&mut Request)| {
        let mut request = good.clone();
        change(&mut request);
        engine.submit(request).unwrap_err().to_string()
    };
    assert_eq!(refused(&|r| r.prompt.clear()), "the prompt is empty; it begins with <|bos|>");
    assert!(refused(&|r| r.prompt = vec![1; CONTEXT]).contains("384 tokens"));
    assert_eq!(refused(&|r| r.prompt = vec![1_000]), "token 1000 is outside the vocabulary of 1000");
    assert_eq!(refused(&|r| r.samples = 0), "samples must be at least 1");
    assert_eq!(refused(&|r| r.max_tokens = 0), "max_tokens must be at least 1");
    assert!(refused(&|r| r.options.top_p = 7.0).contains("top-p"));
    assert!(engine.is_idle());
}

#[test]
fn an_engine_can_move_to_a_thread() {
    fn is_send<T: Send>() {}
    is_send::<Engine<'static>>();
}
