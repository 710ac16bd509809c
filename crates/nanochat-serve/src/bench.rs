//! A load generator for any server with `/v1/completions`. Measures the time to the first token, the time per token and
//! the total throughput.
//!
//! Each client is one connection that sends its next request when an answer is complete (a closed loop), so `clients`
//! is also the number of concurrent answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nanochat::terminal::flag_values;
use nanochat_tensor::Rng;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The load to generate.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeBench {
    /// Server to load; if it requires a key, set NANOCHAT_API_KEY
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// Concurrent clients
    #[arg(long, value_parser = flag_values::count, default_value_t = 32)]
    pub clients: usize,
    /// Total requests [default: four per client]
    #[arg(long, value_parser = flag_values::count)]
    pub requests: Option<usize>,
    /// Random tokens in each prompt
    #[arg(long, value_parser = flag_values::count, default_value_t = 128)]
    pub prompt_tokens: usize,
    /// Longest answer, in tokens
    #[arg(long, value_parser = flag_values::count, default_value_t = 128)]
    pub max_tokens: usize,
    /// Prompts are sampled from the first N tokens of the vocabulary
    #[arg(long, value_parser = flag_values::count, default_value_t = 256)]
    pub vocab_size: usize,
    /// Seed of the prompts; another one avoids the prefixes that the server has cached
    #[arg(long, value_parser = flag_values::seed, default_value_t = 3)]
    pub seed: u64,
    /// The API key that the server requires.
    #[arg(skip)]
    pub key: Option<String>,
}

/// The measured results.
#[derive(Clone, Debug, Serialize)]
pub struct ServeSpeed {
    pub requests: usize,
    /// The number of 429 responses; each such request was sent again.
    pub refused: usize,
    pub tokens: usize,
    pub seconds: f64,
    pub tokens_per_second: f64,
    pub requests_per_second: f64,
    /// Milliseconds from a request to its first event with text.
    pub first_token_ms: Percentiles,
    /// Milliseconds between two tokens, averaged over each answer.
    pub token_ms: Percentiles,
    /// Milliseconds from a request to the end of its answer.
    pub answer_ms: Percentiles,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

struct TimedAnswer {
    first: Option<Duration>,
    whole: Duration,
    tokens: usize,
    refused: usize,
}

type Client = SendRequest<Full<Bytes>>;

pub fn run(bench: &ServeBench) -> Result<ServeSpeed> {
    // One thread reads some 100,000 tokens a second; the server needs most of the cores.
    let threads = (std::thread::available_parallelism()?.get() / 4).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(measure(bench))
}

async fn measure(bench: &ServeBench) -> Result<ServeSpeed> {
    let host =
        bench.url.trim_end_matches('/').strip_prefix("http://").context("--url must begin with http://")?;
    ensure!(!host.contains('/'), "--url must be of the form http://host:port");
    let address = if host.contains(':') { host.to_string() } else { format!("{host}:80") };
    let requests = bench.requests.unwrap_or(4 * bench.clients);
    let started = Instant::now();
    let clients = (0..bench.clients.min(requests)).map(|client| {
        let (bench, address) = (bench.clone(), address.clone());
        // Each client has a fixed share of the requests, so that fast clients do not take those of slow ones.
        let mine: Vec<usize> = (client..requests).step_by(bench.clients).collect();
        tokio::spawn(async move {
            let mut connection = None;
            let mut answers = Vec::with_capacity(mine.len());
            for number in mine {
                answers.push(ask(&mut connection, &bench, &address, number).await?);
            }
            anyhow::Ok(answers)
        })
    });
    let mut answers = Vec::with_capacity(requests);
    for client in clients.collect::<Vec<_>>() {
        answers.extend(client.await??);
    }
    Ok(summary(&answers, started.elapsed().as_secs_f64()))
}

fn summary(answers: &[TimedAnswer], seconds: f64) -> ServeSpeed {
    let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
    let ms = |duration: Duration| 1e3 * duration.as_secs_f64();
    let token_ms = |answer: &TimedAnswer| {
        let rest = answer.whole.checked_sub(answer.first?)?;
        (answer.tokens > 1).then(|| ms(rest) / (answer.tokens - 1) as f64)
    };
    ServeSpeed {
        requests: answers.len(),
        refused: answers.iter().map(|answer| answer.refused).sum(),
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        requests_per_second: answers.len() as f64 / seconds,
        first_token_ms: percentiles(answers.iter().filter_map(|answer| answer.first.map(ms)).collect()),
        token_ms: percentiles(answers.iter().filter_map(token_ms).collect()),
        answer_ms: percentiles(answers.iter().map(|answer| ms(answer.whole)).collect()),
    }
}

/// Returns percentiles by the nearest-rank method.
fn percentiles(mut values: Vec<f64>) -> Percentiles {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((share * values.len() as f64).ceil() as usize).max(1) - 1).copied();
    let at = |share| at(share).unwrap_or(0.0);
    Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
}

/// Sends request `number` until the server accepts it, and reads the answer.
async fn ask(
    connection: &mut Option<Client>,
    bench: &ServeBench,
    address: &str,
    number: usize,
) -> Result<TimedAnswer> {
    let mut rng = Rng::new(&[bench.seed, number as u64]);
    let prompt: Vec<usize> = (0..bench.prompt_tokens).map(|_| rng.below(bench.vocab_size)).collect();
    let body = json!({
        "prompt": prompt,
        "max_tokens": bench.max_tokens,
        "temperature": 1.0,
        "top_k": 50,
        "seed": number,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let mut refused = 0;
    loop {
        let started = Instant::now();
        let response = send(connection, address, bench.key.as_deref(), body.to_string()).await?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused += 1;
            let _ = response.into_body().collect().await?; // read to the end, so that the connection can be reused
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        return read(response, started, refused).await;
    }
}

async fn send(
    connection: &mut Option<Client>,
    address: &str,
    key: Option<&str>,
    body: String,
) -> Result<Response<Incoming>> {
    let mut request =
        Request::post("/v1/completions").header("host", address).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    if connection.as_ref().is_none_or(|client| client.is_closed()) {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("failed to reach {address}"))?;
        stream.set_nodelay(true)?;
        let (client, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        *connection = Some(client);
    }
    let client = connection.as_mut().expect("connected above");
    client.ready().await?;
    Ok(client.send_request(request).await?)
}

async fn read(response: Response<Incoming>, started: Instant, refused: usize) -> Result<TimedAnswer> {
    let status = response.status();
    let mut body = response.into_body();
    let (mut text, mut first, mut usage, mut whole) = (Vec::new(), None, None, false);
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(frame?.data_ref().unwrap_or(&Bytes::new()));
        let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in text[..complete].split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            if data == b"[DONE]" {
                whole = true;
                continue;
            }
            first.get_or_insert_with(|| started.elapsed());
            let event: Value = serde_json::from_slice(data).context("an event is not JSON")?;
            if !event["error"].is_null() {
                bail!("the server gave an answer up: {}", event["error"]["message"]);
            }
            usage = event["usage"]["completion_tokens"].as_u64().or(usage);
        }
        text.drain(..complete);
    }
    ensure!(status.is_success(), "the server answered {status}: {}", String::from_utf8_lossy(&text));
    ensure!(whole, "an answer broke off");
    let tokens = usage.context("the server does not say how many tokens an answer has")? as usize;
    Ok(TimedAnswer { first, whole: started.elapsed(), tokens, refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let found = percentiles((1..=200).rev().map(f64::from).collect());
        assert_eq!((found.p50, found.p90, found.p99, found.max), (100.0, 180.0, 198.0, 200.0));
        assert_eq!(percentiles(vec![7.0]).p99, 7.0);
        assert_eq!(percentiles(Vec::new()).max, 0.0);
    }
}
