//! The server: an OpenAI-compatible API and a web chat over the engine. Async lives only here.
//!
//! ```text
//! clients ── connection ── access ── openai/, native ── queue ──► replica (a thread with an Engine) × devices
//!                                        ▲                              │
//!                                        └──────── generation ◄── updates of each sample
//! ```
//!
//! Nothing is cancelled by hand: a client who leaves drops the receiving end of its updates, and the replica sees it
//! before its next step.

mod access;
mod aside;
pub mod bench;
mod body;
mod connection;
mod error;
mod events;
mod fields;
mod generation;
mod guesses;
mod keys;
mod metrics;
mod native;
mod openai;
mod options;
mod paced;
mod page;
mod places;
mod queue;
mod rate;
mod replica;
mod tokens;
mod transcript;

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use nanochat::gpt::Gpt;
use nanochat_tensor::Device;
use nanochat_tokenizer::Tokenizer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use access::Access;
use error::ApiError;
use keys::Keys;
use metrics::Metrics;
use options::CONNECTIONS;
pub use options::ServeOptions;
use places::Places;
use queue::Queue;
use replica::Replica;
use tokens::Marks;

/// What all requests share.
pub struct Server {
    model: String,
    tokenizer: Tokenizer,
    marks: Marks,
    tokenizer_info: Value,
    context: usize,
    queue: Arc<Queue>,
    replicas: Vec<Arc<Replica>>,
    metrics: Arc<Metrics>,
    access: Access,
    /// Seconds since 1970.
    started: u64,
    random: RandomState,
    drawn: AtomicU64,
}

type Shared = Arc<Server>;

impl Server {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// A number that nobody can guess, another one every time.
    fn fresh_seed(&self) -> u64 {
        self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    fn fresh_id(&self, kind: &str) -> String {
        format!("{kind}-{:016x}", self.fresh_seed())
    }

    fn is_ready(&self) -> bool {
        self.queue.replicas() > 0 && !self.queue.is_draining()
    }

    /// The name under which requests are counted: what is unknown has one name, or strangers could make up many.
    fn route_name(&self, path: &str) -> &'static str {
        ROUTES.iter().find(|route| **route == path).copied().unwrap_or("other")
    }
}

const ROUTES: [&str; 12] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/chat/completions",
    "/models",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/health",
    "/ready",
    "/stats",
    "/metrics",
];

fn router(server: Shared) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat::completions))
        .route("/v1/completions", post(openai::completions::completions))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{id}", get(openai::model))
        .route("/models", get(openai::models))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/chat/completions", post(native::chat))
        .route("/stats", get(native::stats))
        .route("/health", get(native::health))
        .route("/ready", get(native::ready))
        .route("/metrics", get(metrics::answer))
        .method_not_allowed_fallback(wrong_method)
        .fallback(page::serve)
        .layer(axum::middleware::from_fn_with_state(server.clone(), access::check))
        .with_state(server)
}

/// The route that a client means who joined addresses with a slash too many, such as `http://host//v1/models/`.
fn meant(path: &str) -> Option<String> {
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    let meant = format!("/{}", steps.join("/"));
    (meant != path && ROUTES.contains(&meant.as_str())).then_some(meant)
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this address takes another method")
}

/// Serves `model` on every one of `devices` until SIGTERM or Ctrl-C. `ready` is told the address when clients may come.
pub fn run(
    model: Gpt,
    tokenizer: Tokenizer,
    name: String,
    devices: &[Device],
    options: &ServeOptions,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let keys = Keys::read(options)?;
    let cores = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(cores) // what goes there computes
        .build()?;
    let address = SocketAddr::new(options.host, options.port);
    let listener = runtime.block_on(connection::listen(address));
    let listener =
        listener.with_context(|| format!("failed to listen on {address}; --port takes another"))?;
    let bound = listener.local_addr()?;
    let (queue, metrics) = (Arc::new(Queue::new(options.max_queue)), Arc::new(Metrics::default()));
    let context = model.config.sequence_len;
    let tokenizer_info = tokens::tokenizer_info(&tokenizer, &model.config);
    let replicas = replica::start_all(model, &tokenizer, devices, options, &queue, &metrics)?;
    let (replicas, threads): (Vec<_>, Vec<_>) = replicas.into_iter().unzip();
    let server = Arc::new(Server {
        model: name,
        marks: Marks::of(&tokenizer)?,
        tokenizer,
        tokenizer_info,
        context,
        queue: queue.clone(),
        replicas,
        metrics,
        access: Access::new(keys, options.rate_limit, options.cors_origin.clone(), bound),
        started: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        random: RandomState::new(),
        drawn: AtomicU64::new(0),
    });
    if server.access.is_open() && !bound.ip().is_loopback() {
        eprintln!("warning: anyone who reaches {bound} can use this server; --api-keys FILE asks for keys");
    }
    runtime.block_on(serve_until_stopped(listener, server, options, || ready(bound)))?;
    queue.abort();
    threads.into_iter().for_each(|thread| drop(thread.join())); // a failed one has said why
    Ok(())
}

/// Serves until a signal, then lets running answers finish until another one comes or their grace is over.
async fn serve_until_stopped(
    listener: TcpListener,
    server: Arc<Server>,
    options: &ServeOptions,
    ready: impl FnOnce(),
) -> Result<()> {
    let grace = Duration::from_secs(options.grace);
    let places = Arc::new(Places::new(options.connections_per_address, CONNECTIONS));
    let queue = server.queue.clone();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (counted, signals) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            counted.send_modify(|count| *count += 1);
        }
    });
    let nth = |n| {
        let mut signals = signals.clone();
        async move { drop(signals.wait_for(|count| *count >= n).await) }
    };
    let stop = async {
        nth(1).await;
        eprintln!("stopping: running answers have {} s; another signal ends them now", grace.as_secs());
        queue.drain();
    };
    let late = async {
        tokio::select! { () = nth(2) => {}, () = tokio::time::sleep(grace) => {} }
    };
    ready();
    connection::serve(listener, router(server), places, stop, late, || queue.abort()).await;
    Ok(())
}
