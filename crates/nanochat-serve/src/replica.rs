//! A replica: one engine on one device, in a thread of its own. It takes work from the queue when it has room, steps,
//! and hands out what each step brought.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nanochat::engine::{Engine, EngineOptions, Event, RequestId, Stats};
use nanochat::gpt::Gpt;
use nanochat_tensor::cuda::gpu_failure;
use nanochat_tokenizer::Tokenizer;

use crate::metrics::Metrics;
use crate::queue::{Job, Letter, Queue, Update, Work};

/// What the rest of the server sees of a replica.
pub struct Replica {
    pub device: String,
    stats: Mutex<Option<Stats>>,
}

impl Replica {
    /// None: it has failed or stopped.
    pub fn stats(&self) -> Option<Stats> {
        *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn publish(&self, stats: Option<Stats>) {
        *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = stats;
    }
}

/// Starts the thread; it ends when the queue says so, or when the device fails.
pub fn start(
    index: usize,
    model: Gpt,
    tokenizer: Tokenizer,
    options: EngineOptions,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
) -> (Arc<Replica>, JoinHandle<()>) {
    let replica =
        Arc::new(Replica { device: model.device().to_string(), stats: Mutex::new(Some(Stats::default())) });
    queue.replica_started();
    let shared = replica.clone();
    let work = move || {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let engine = Engine::with_options(&model, Some(&tokenizer), options);
            drop(model); // the engine has its own weights
            thread::scope(|scope| {
                let (outbox, letters) = channel::<Vec<Letter>>();
                scope.spawn(move || letters.into_iter().flatten().for_each(Letter::deliver));
                let (queue, metrics, active) = (&queue, &metrics, HashMap::new());
                Worker { index, engine, queue, metrics, active, outbox }.serve(options.max_rows, &shared);
            });
        }));
        shared.publish(None);
        queue.replica_ended();
        if let Err(panic) = served {
            let why = gpu_failure(&*panic).map_or("a bug in nanochat".to_string(), |why| why.to_string());
            eprintln!("replica {index} has failed and answers nothing more: {why}");
        }
    };
    let thread = thread::Builder::new().name(format!("replica-{index}"));
    (replica, thread.spawn(work).expect("a thread for the replica"))
}

struct Worker<'a> {
    index: usize,
    engine: Engine<'a>,
    queue: &'a Queue,
    metrics: &'a Metrics,
    active: HashMap<RequestId, Active>,
    /// What a step brought. Whoever waits for it is woken by another thread, during the next step.
    outbox: Sender<Vec<Letter>>,
}

struct Active {
    job: Job,
    tokens: u32,
    first: Option<Instant>,
}

impl Worker<'_> {
    fn serve(&mut self, max_rows: usize, replica: &Replica) {
        loop {
            let room = max_rows.saturating_sub(self.active.len());
            let Some(work) = self.queue.take(room, self.active.is_empty()) else { return };
            work.into_iter().for_each(|work| self.begin(work));
            let engine = &mut self.engine;
            self.active.retain(|&id, active| {
                let goes_on = !active.job.is_abandoned();
                if !goes_on {
                    engine.cancel(id);
                }
                goes_on
            });
            let before = self.engine.stats();
            let events = self.engine.step();
            let stats = self.engine.stats();
            self.metrics.step(&before, &stats);
            let letters = events.into_iter().filter_map(|event| self.letter(event)).collect();
            self.outbox.send(letters).expect("the thread ends after this one");
            replica.publish(Some(stats));
        }
    }

    fn begin(&mut self, work: Work) {
        match work {
            Work::Score(scoring) => {
                let _ = scoring.reply.send(self.engine.score(&scoring.ids, scoring.top)); // or the client left
            }
            Work::Generate(job) => match self.engine.submit(job.request.clone()) {
                Ok(id) => drop(self.active.insert(id, Active { job, tokens: 0, first: None })),
                // Requests are checked before they are queued; what is dropped here tells its client.
                Err(error) => eprintln!("a request was refused by the engine: {error}"),
            },
        }
    }

    /// To whoever waits for the event; None if nobody does any more.
    fn letter(&mut self, event: Event) -> Option<Letter> {
        match event {
            Event::Token { request, id, logprobs, .. } => {
                let active = self.active.get_mut(&request)?;
                active.tokens += 1;
                if active.first.is_none() {
                    active.first = Some(Instant::now());
                    self.metrics.first_token.observe(active.job.arrived.elapsed());
                }
                Some(active.job.letter(Update::Token { replica: self.index, id, logprobs }))
            }
            Event::Finished { request, finish, .. } => {
                let mut active = self.active.remove(&request)?;
                if let (Some(first), tokens @ 2..) = (active.first, active.tokens) {
                    self.metrics.token.observe(first.elapsed() / (tokens - 1));
                }
                Some(active.job.letter(Update::Finished(finish)))
            }
        }
    }
}
