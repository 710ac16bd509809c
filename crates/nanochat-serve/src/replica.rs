//! A replica: one engine on one device, in a thread of its own. It takes work from the queue when it has room, runs
//! steps, and sends each step's tokens to the clients.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Result;
use nanochat::engine::{Engine, EngineOptions, Event, RequestId, Stats};
use nanochat::model::gpt::Gpt;
use nanochat::terminal::escape;
use nanochat_tensor::Device;
use nanochat_tensor::gpu::gpu_failure;
use nanochat_tokenizer::Tokenizer;

use crate::metrics::ServerMetrics;
use crate::options::ServeOptions;
use crate::queue::{Job, Queue, SampleUpdate, Work};

/// The view that the rest of the server has of a replica.
pub struct Replica {
    pub device: String,
    stats: Mutex<Option<Stats>>,
}

impl Replica {
    /// Returns the engine's statistics; None once the replica has failed or stopped.
    pub fn stats(&self) -> Option<Stats> {
        *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn publish(&self, stats: Option<Stats>) {
        *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = stats;
    }
}

/// A copy of the model on each device, and the thread that computes with it. All take from one queue.
pub fn start_all(
    model: Gpt,
    tokenizer: &Tokenizer,
    devices: &[Device],
    options: &ServeOptions,
    queue: &Arc<Queue>,
    metrics: &Arc<ServerMetrics>,
) -> Result<Vec<(Arc<Replica>, JoinHandle<()>)>> {
    let engine = |device: &Device| {
        let for_batch = EngineOptions::for_batch(device, options.max_rows);
        let cache_bytes = options.cache_mib.map_or(for_batch.cache_bytes, |mib| mib << 20);
        let (weights, max_rows) = (options.weights, options.max_rows);
        EngineOptions { weights, max_rows, cache_bytes, ..for_batch }
    };
    let copies = devices.iter().map(|device| model.clone().to_device(device));
    let copies: Vec<Gpt> = copies.collect::<Result<_, _>>()?;
    drop(model); // the replicas have their own
    let start = |(i, (model, device)): (usize, (Gpt, &Device))| {
        start(i, model, tokenizer.clone(), engine(device), queue.clone(), metrics.clone())
    };
    Ok(copies.into_iter().zip(devices).enumerate().map(start).collect())
}

/// Starts the thread; it ends when the queue says so, or when the device fails.
fn start(
    index: usize,
    model: Gpt,
    tokenizer: Tokenizer,
    options: EngineOptions,
    queue: Arc<Queue>,
    metrics: Arc<ServerMetrics>,
) -> (Arc<Replica>, JoinHandle<()>) {
    let replica =
        Arc::new(Replica { device: model.device().to_string(), stats: Mutex::new(Some(Stats::default())) });
    queue.replica_started();
    let shared = replica.clone();
    let work = move || {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let engine = Engine::with_options(&model, Some(&tokenizer), options);
            drop(model); // the engine has its own weights
            ReplicaThread { index, engine, queue: &queue, metrics: &metrics, active: HashMap::new() }
                .serve(options.max_rows, &shared);
        }));
        shared.publish(None);
        queue.replica_ended();
        if let Err(panic) = served {
            let why = gpu_failure(&*panic).map_or("a bug in nanochat".to_string(), |why| why.to_string());
            eprintln!("replica {index} has failed and answers nothing more: {}", escape::line(&why));
        }
    };
    let thread = std::thread::Builder::new().name(format!("replica-{index}"));
    (replica, thread.spawn(work).expect("a thread for the replica"))
}

struct ReplicaThread<'a> {
    index: usize,
    engine: Engine<'a>,
    queue: &'a Queue,
    metrics: &'a ServerMetrics,
    active: HashMap<RequestId, Active>,
}

struct Active {
    job: Job,
    tokens: u32,
    first: Option<Instant>,
}

impl ReplicaThread<'_> {
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
            // The counts are updated first, so that a client that has its answer finds it counted.
            self.metrics.step(&before, &stats);
            replica.publish(Some(stats));
            events.into_iter().for_each(|event| self.hand_out(event));
        }
    }

    fn begin(&mut self, work: Work) {
        match work {
            Work::Score(scoring) => {
                let _ = scoring.reply.send(self.engine.score(&scoring.ids, scoring.top)); // fails if the client has left
            }
            Work::Generate(job) => match self.engine.submit_for(job.owner, job.request.clone()) {
                Ok(id) => drop(self.active.insert(id, Active { job, tokens: 0, first: None })),
                // Requests are checked before they are queued, so this is rare; dropping the job tells its client.
                Err(error) => {
                    eprintln!("a request was refused by the engine: {}", escape::line(&error.to_string()))
                }
            },
        }
    }

    fn hand_out(&mut self, event: Event) {
        match event {
            Event::Token { request, id, logprobs, .. } => {
                let Some(active) = self.active.get_mut(&request) else { return };
                active.tokens += 1;
                if active.first.is_none() {
                    active.first = Some(Instant::now());
                    self.metrics.first_token.observe(active.job.arrived.elapsed());
                }
                active.job.send(SampleUpdate::Token { replica: self.index, id, logprobs });
            }
            Event::Stop { request, id, logprobs, .. } => {
                if let (Some(active), Some(logprobs)) = (self.active.get_mut(&request), logprobs) {
                    active.job.send(SampleUpdate::Stop { id, logprobs });
                }
            }
            Event::Finished { request, finish, .. } => {
                let Some(mut active) = self.active.remove(&request) else { return };
                if let (Some(first), tokens @ 2..) = (active.first, active.tokens) {
                    self.metrics.token.observe(first.elapsed() / (tokens - 1));
                }
                active.job.send(SampleUpdate::Finished(finish));
            }
        }
    }
}
