//! The HTTP server: an OpenAI-compatible API and a web chat on top of the engine. Only this crate uses async.
//!
//! ```text
//! clients ── connection ── access ── openai/, native ── queue ──► replica (a thread with an Engine) × devices
//!                                        ▲                              │
//!                                        └──────── generation ◄── updates of each sample
//! ```
//!
//! Cancellation needs no message: a client that leaves drops the receiving end of its updates, and the replica notices
//! before its next step.

mod access;
pub mod bench;
mod client_io;
mod connection;
mod error;
mod events;
mod fields;
mod generation;
mod json_body;
mod keys;
mod metrics;
mod native;
mod offload;
mod openai;
mod options;
mod page;
mod queue;
mod rate;
mod replica;
mod slots;
mod tokenize;
mod transcript;
mod wrong_keys;

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use nanochat::model::gpt::Gpt;
use nanochat_tensor::Device;
use nanochat_tokenizer::Tokenizer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use access::Access;
use error::ApiError;
use keys::Keys;
use metrics::ServerMetrics;
use options::CONNECTIONS;
pub use options::ServeOptions;
use queue::Queue;
use replica::Replica;
use slots::Slots;
use tokenize::SpecialNames;

/// The state shared by all requests.
pub struct Server {
    model: String,
    tokenizer: Tokenizer,
    marks: SpecialNames,
    tokenizer_info: Value,
    context: usize,
    queue: Arc<Queue>,
    replicas: Vec<Arc<Replica>>,
    metrics: Arc<ServerMetrics>,
    access: Access,
    /// The start time, in seconds since 1970.
    started: u64,
    random: RandomState,
    drawn: AtomicU64,
}

type Shared = Arc<Server>;

impl Server {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Returns an unpredictable number, a new one each time.
    fn fresh_seed(&self) -> u64 {
        self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    fn fresh_id(&self, kind: &str) -> String {
        format!("{kind}-{:016x}", self.fresh_seed())
    }

    fn is_ready(&self) -> bool {
        self.queue.replicas() > 0 && !self.queue.is_draining()
    }

    /// Returns the route name under which a request is counted. Unknown paths share one name; otherwise strangers could
    /// create any number of counters.
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
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/tokenizer_info", get(tokenize::info))
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

/// Returns the corrected path of a client that joined addresses with an extra slash, such as `http://host//v1/models/`.
fn meant(path: &str) -> Option<String> {
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    let meant = format!("/{}", steps.join("/"));
    (meant != path && ROUTES.contains(&meant.as_str())).then_some(meant)
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this address takes another method")
}

/// Serves `model` on every one of `devices` until SIGTERM or Ctrl-C. Calls `ready` with the address once it accepts
/// connections.
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
        .max_blocking_threads(cores) // this work is CPU-bound
        .build()?;
    let address = SocketAddr::new(options.host, options.port);
    let listener = runtime.block_on(connection::listen(address));
    let listener =
        listener.with_context(|| format!("failed to listen on {address}; --port takes another"))?;
    let bound = listener.local_addr()?;
    let (queue, metrics) = (Arc::new(Queue::new(options.max_queue)), Arc::new(ServerMetrics::default()));
    let context = model.config.sequence_len;
    let tokenizer_info = tokenize::tokenizer_info(&tokenizer, &model.config);
    let replicas = replica::start_all(model, &tokenizer, devices, options, &queue, &metrics)?;
    let (replicas, threads): (Vec<_>, Vec<_>) = replicas.into_iter().unzip();
    let server = Arc::new(Server {
        model: name,
        marks: SpecialNames::of(&tokenizer)?,
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
    threads.into_iter().for_each(|thread| drop(thread.join())); // a failed thread has reported why
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
    let slots = Arc::new(Slots::new(options.connections_per_address, CONNECTIONS));
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
    connection::serve(listener, router(server), slots, stop, late, || queue.abort()).await;
    Ok(())
}
