//! Metrics for Prometheus, in its text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use nanochat::engine::Stats;

use crate::Shared;
use crate::access::ClientRights;
use crate::error::ApiError;
use crate::queue::Queue;

/// The upper bounds of the histogram buckets, in seconds.
const BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

#[derive(Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Relaxed);
    }

    fn write(&self, name: &str, help: &str, text: &mut String) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        for (count, bound) in
            self.counts.iter().zip(BOUNDS.map(|b| b.to_string()).iter().map(String::as_str).chain(["+Inf"]))
        {
            total += count.load(Relaxed);
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = self.micros.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {total}");
    }
}

/// The tokens generated since a moment, and the rate of the last complete second.
struct TokenRate {
    since: Instant,
    tokens: u64,
    per_second: f64,
}

pub struct ServerMetrics {
    pub first_token: Histogram,
    pub token: Histogram,
    /// The number of responses by route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    generated: AtomicU64,
    computed: AtomicU64,
    rate: Mutex<TokenRate>,
}

impl Default for ServerMetrics {
    fn default() -> ServerMetrics {
        let rate = TokenRate { since: Instant::now(), tokens: 0, per_second: 0.0 };
        ServerMetrics {
            first_token: Histogram::default(),
            token: Histogram::default(),
            requests: Mutex::default(),
            generated: AtomicU64::new(0),
            computed: AtomicU64::new(0),
            rate: Mutex::new(rate),
        }
    }
}

impl ServerMetrics {
    pub fn answered(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *requests.entry((route, status)).or_default() += 1;
    }

    /// Adds the tokens of one step of a replica.
    pub fn step(&self, before: &Stats, after: &Stats) {
        let generated = after.generated_tokens - before.generated_tokens;
        self.generated.fetch_add(generated, Relaxed);
        self.computed.fetch_add(after.computed_tokens - before.computed_tokens, Relaxed);
        self.rate().tokens += generated;
    }

    /// Returns the tokens per second of all replicas.
    pub fn tokens_per_second(&self) -> f64 {
        self.rate().per_second
    }

    fn rate(&self) -> std::sync::MutexGuard<'_, TokenRate> {
        let mut rate = self.rate.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let seconds = rate.since.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            *rate = TokenRate { since: Instant::now(), tokens: 0, per_second: rate.tokens as f64 / seconds };
        }
        rate
    }

    /// All numbers; `stats` of the replicas at work.
    pub fn text(&self, queue: &Queue, stats: &[Stats]) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "# HELP nanochat_requests_total Answered requests.\n# TYPE nanochat_requests_total counter"
        );
        for ((route, status), count) in
            self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter()
        {
            let _ =
                writeln!(text, "nanochat_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        self.first_token.write(
            "nanochat_first_token_seconds",
            "From a request to its first token.",
            &mut text,
        );
        self.token.write("nanochat_token_seconds", "Between two tokens of an answer, its mean.", &mut text);
        let sum = |value: fn(&Stats) -> usize| stats.iter().map(value).sum::<usize>() as f64;
        let mut value = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = writeln!(
                text,
                "# HELP nanochat_{name} {help}\n# TYPE nanochat_{name} {kind}\nnanochat_{name} {value}"
            );
        };
        value("generated_tokens_total", "counter", "Tokens generated.", self.generated.load(Relaxed) as f64);
        value(
            "computed_tokens_total",
            "counter",
            "Tokens that went through the model, prompts included.",
            self.computed.load(Relaxed) as f64,
        );
        value("tokens_per_second", "gauge", "Tokens generated in the last second.", self.tokens_per_second());
        value("queue_length", "gauge", "Samples that wait for a replica.", queue.len() as f64);
        value("rows_running", "gauge", "Samples being generated.", sum(|s| s.running));
        value("rows_waiting", "gauge", "Samples that wait inside a replica.", sum(|s| s.waiting));
        value(
            "kv_pages_in_use",
            "gauge",
            "Pages of keys and values that answers hold.",
            sum(|s| s.pages_in_use),
        );
        value("kv_pages_idle", "gauge", "Pages kept for later prompts.", sum(|s| s.pages_idle));
        value("kv_pages", "gauge", "Pages there may be.", sum(|s| s.pages));
        value(
            "preemptions_total",
            "counter",
            "Answers that gave up their pages for older ones.",
            sum(|s| s.preemptions as usize),
        );
        value("replicas", "gauge", "Replicas at work.", stats.len() as f64);
        text
    }
}

/// The route `/metrics`.
pub async fn answer(
    State(server): State<Shared>,
    Extension(rights): Extension<ClientRights>,
) -> Result<([(header::HeaderName, &'static str); 1], String), ApiError> {
    if !rights.sees_counts {
        let message = "exact counts tell of the requests of others; a key of --metrics-keys reads them";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let stats: Vec<Stats> = server.replicas.iter().filter_map(|replica| replica.stats()).collect();
    Ok((kind, server.metrics.text(&server.queue, &stats)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::default();
        for ms in [1, 3, 90_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut text = String::new();
        histogram.write("x", "Help.", &mut text);
        for line in [
            "x_bucket{le=\"0.001\"} 1",
            "x_bucket{le=\"0.005\"} 2",
            "x_bucket{le=\"60\"} 2",
            "x_bucket{le=\"+Inf\"} 3",
            "x_sum 90.004",
            "x_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
