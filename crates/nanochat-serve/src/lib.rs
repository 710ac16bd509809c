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
pub mod bench;
mod body;
mod connection;
mod error;
mod events;
mod fields;
mod generation;
mod metrics;
mod native;
mod openai;
mod page;
mod queue;
mod replica;
mod tokens;
mod transcript;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::routing::{get, post};
use nanochat::engine::EngineOptions;
use nanochat::gpt::Gpt;
use nanochat::values;
use nanochat_tensor::{Device, Precision};
use nanochat_tokenizer::Tokenizer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use access::Access;
use error::ApiError;
use metrics::Metrics;
use queue::Queue;
use replica::Replica;
use tokens::Marks;

/// How a server works.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// Address to listen on; 0.0.0.0 is all of this machine's
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_parser = values::whole::<u16, 0, 65_535>, default_value_t = 8000)]
    pub port: u16,
    /// Name of the model in the API [default: from its folder]
    #[arg(long)]
    pub name: Option<String>,
    /// File with the keys that clients must show, one a line (or NANOCHAT_API_KEYS, apart by commas)
    #[arg(long, value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// More keys, apart by commas.
    #[arg(skip)]
    pub listed_keys: Option<String>,
    /// Requests a minute that each key may make (without keys, each address) [default: any number]
    #[arg(long, value_name = "N", value_parser = values::whole::<u32, 1, 4_294_967_295>)]
    pub rate_limit: Option<u32>,
    /// Web page that may ask from its own address, such as https://chat.example [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Option<HeaderValue>,
    /// Answers generated together on each device
    #[arg(long, value_parser = values::count, default_value_t = 64)]
    pub max_rows: usize,
    /// Answers that may wait for a place; more are told to come again (429)
    #[arg(long, value_parser = values::count, default_value_t = 256)]
    pub max_queue: usize,
    /// Memory for keys and values on each device, in MiB [default: 1024; on a GPU up to 32768 of what is free]
    #[arg(long, value_parser = values::count)]
    pub cache_mib: Option<usize>,
    /// Weights on the CPU: f32, bf16 or int8
    #[arg(long, default_value_t = Precision::Bf16)]
    pub weights: Precision,
    /// Seconds that running answers get to finish after SIGTERM or Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, default_value_t = 30)]
    pub grace: u64,
}

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
        .route("/metrics", get(metrics_text))
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

async fn metrics_text(State(server): State<Shared>) -> ([(header::HeaderName, &'static str); 1], String) {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, server.metrics.text(&server.queue, &server.replicas))
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
    let keys = access::read_keys(options.api_keys.as_deref(), options.listed_keys.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let address = SocketAddr::new(options.host, options.port);
    let listener = runtime.block_on(TcpListener::bind(address));
    let listener =
        listener.with_context(|| format!("failed to listen on {address}; --port takes another"))?;
    let bound = listener.local_addr()?;
    let (queue, metrics) = (Arc::new(Queue::new(options.max_queue)), Arc::new(Metrics::default()));
    let engine = |device: &Device| {
        let for_batch = EngineOptions::for_batch(device, options.max_rows);
        let cache_bytes = options.cache_mib.map_or(for_batch.cache_bytes, |mib| mib << 20);
        let (weights, max_rows) = (options.weights, options.max_rows);
        EngineOptions { weights, max_rows, cache_bytes, ..for_batch }
    };
    let context = model.config.sequence_len;
    let tokenizer_info = tokens::tokenizer_info(&tokenizer, &model.config);
    let start = |(i, device): (usize, &Device)| {
        let model = model.clone().to_device(device);
        replica::start(i, model, tokenizer.clone(), engine(device), queue.clone(), metrics.clone())
    };
    let (replicas, threads): (Vec<_>, Vec<_>) = devices.iter().enumerate().map(start).unzip();
    drop(model); // the replicas have their own
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
    let grace = Duration::from_secs(options.grace);
    runtime.block_on(async {
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
        ready(bound);
        connection::serve(listener, router(server), stop, late, || queue.abort()).await;
        anyhow::Ok(())
    })?;
    queue.abort();
    threads.into_iter().for_each(|thread| drop(thread.join())); // a failed one has said why
    Ok(())
}
