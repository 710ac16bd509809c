//! Tests clients that occupy what others need: connections that they do not read, partial requests, wrong keys, long
//! prompts; and what clients learn about each other.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;

/// The longest time that a healthy server takes for `/health`.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The same during a burst of 1.3 million requests: below a second on two idle cores, but other tests run too. Without
/// limits it would never answer.
const STILL_ANSWERED: Duration = Duration::from_secs(10);

/// Requests a file again and again without reading the responses.
fn silent_reader(server: &Server) -> TcpStream {
    let socket = server.connect();
    socket.set_nonblocking(true).unwrap();
    let asked = format!("GET /app.js HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).repeat(600);
    match (&socket).write(asked.as_bytes()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    socket
}

/// Whether the server has closed the connection.
fn is_closed(mut socket: &TcpStream) -> bool {
    loop {
        match socket.read(&mut [0; 1 << 16]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

#[test]
fn silent_readers_of_one_address_lose_their_places_to_whoever_asks() {
    let mut server = Server::start(&random_model(), "--connections-per-address 8");
    let readers: Vec<TcpStream> = (0..40).map(|_| silent_reader(&server)).collect();
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.health_takes() < AT_ONCE);
    assert!(readers.iter().filter(|reader| is_closed(reader)).count() >= 32);
    server.assert_well();
}

#[test]
fn half_a_request_holds_no_place_that_another_wants() {
    let mut server = Server::start(&random_model(), "--connections-per-address 4");
    let halves: Vec<TcpStream> = (0..20)
        .map(|i| {
            let mut socket = server.connect();
            let end = if i % 2 == 0 { "" } else { "\r\n{" };
            let half = format!(
                "POST {CHAT} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 90\r\n{end}",
                server.address
            );
            socket.write_all(half.as_bytes()).unwrap();
            socket
        })
        .collect();
    assert!(server.health_takes() < AT_ONCE);
    drop(halves);
    server.assert_well();
}

#[test]
fn an_address_at_its_bound_is_told_so_and_its_answers_go_on() {
    let server = Server::start(&endless_model(), "--connections-per-address 2");
    let long = json!({"messages": user("x"), "max_tokens": 4000, "stream": true});
    let mut running = [0, 1].map(|_| server.open(CHAT, long.clone()));
    running.iter_mut().for_each(|answer| answer.read_exact(&mut [0; 400]).unwrap());
    let refused = server.get("/health");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    let message = refused.json()["error"]["message"].to_string();
    assert!(message.contains("too many connections"), "{message}");
    running[0].read_exact(&mut [0; 400]).unwrap();
    drop(running);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn two_thousand_silent_readers_stop_nobody_and_are_hung_up_on() {
    if !slow("two_thousand_silent_readers_stop_nobody_and_are_hung_up_on") {
        return;
    }
    allow_files(8_192);
    let mut server = Server::start(&random_model(), "");
    let readers: Vec<TcpStream> = (0..2_100).map(|_| silent_reader(&server)).collect();
    let (opened, mut slowest) = (Instant::now(), Duration::ZERO);
    while opened.elapsed() < Duration::from_secs(45) {
        let took = server.health_takes();
        slowest = slowest.max(took);
        assert!(took < STILL_ANSWERED, "{took:?} after {:?}", opened.elapsed());
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("the slowest of the answers took {slowest:?}");
    let closed = readers.iter().filter(|reader| is_closed(reader)).count();
    assert_eq!(closed, readers.len());
    server.assert_well();
}

/// Raises the limit of open files of this process and its children.
fn allow_files(many: u64) {
    // SAFETY: both calls read or write only the struct that they are given.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(many.max(limit.rlim_cur));
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

fn ask(server: &Server, key: &str, method: &str, path: &str, body: &Value) -> Response {
    let body = if method == "GET" { String::new() } else { body.to_string() };
    Request::new(method, path, body).header("authorization", &format!("Bearer {key}")).send(server)
}

#[test]
fn wrong_keys_cost_time_and_lock_nobody_out() {
    let server = Server::with_keys(&random_model(), "", Some("first-key-1,second-key-2"));
    let models = |key: &str| {
        let asked = Instant::now();
        (ask(&server, key, "GET", "/v1/models", &Value::Null).status, asked.elapsed())
    };
    assert_eq!(models("first-key-1").0, 200);
    let asked = Instant::now();
    (0..6).for_each(|i| assert_eq!(models(&format!("wrong-key-{i}")).0, 401));
    assert!(asked.elapsed() >= Duration::from_millis(100 + 200 + 400), "{:?}", asked.elapsed());
    let (status, took) = models("first-key-1");
    assert!(status == 200 && took < Duration::from_millis(500), "{status} after {took:?}");
    let (status, took) = models("second-key-2");
    assert!(status == 200 && took >= Duration::from_millis(700), "as late as a wrong one: {took:?}");
    assert!(models("second-key-2").1 < Duration::from_millis(500), "now it is known here");
    let asked = Instant::now();
    (0..10).for_each(|_| assert_eq!(server.get("/v1/models").status, 401));
    assert!(asked.elapsed() < Duration::from_secs(1), "no key is no guess");
}

/// Returns the cache hits, in tokens, of bob's question after alice had asked it, and after he himself had.
fn cache_hits(flags: &str, watchers: &str) -> [u64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("watchers");
    std::fs::write(&file, watchers).unwrap();
    let flags = format!("{flags} --metrics-keys {}", file.display());
    let server = Server::with_keys(&random_model(), &flags, Some("alice-key-1,bob-key-22"));
    let secret = json!({"messages": user(&"a secret of alice ".repeat(8)), "max_tokens": 1});
    let cache_hits = || {
        let stats = ask(&server, watchers, "GET", "/stats", &Value::Null).json();
        stats["workers"][0]["stats"]["spared_tokens"].as_u64().unwrap()
    };
    assert_eq!(ask(&server, "alice-key-1", "POST", CHAT, &secret).status, 200);
    let before = cache_hits();
    assert_eq!(ask(&server, "bob-key-22", "POST", CHAT, &secret).status, 200);
    let between = cache_hits();
    assert_eq!(ask(&server, "bob-key-22", "POST", CHAT, &secret).status, 200);
    [between - before, cache_hits() - between]
}

#[test]
fn a_key_finds_nothing_in_the_cache_of_what_another_asked() {
    let [of_alice, own] = cache_hits("", "watching-key");
    assert!(of_alice == 0 && own > 0, "{of_alice} {own}");
    let [of_alice, own] = cache_hits("--share-cache", "watching-key");
    assert!(of_alice > 0 && of_alice == own, "{of_alice} {own}");
}

#[test]
fn exact_counts_are_for_the_keys_that_watch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("watchers");
    std::fs::write(&file, "watching-key\n").unwrap();
    let flags = format!("--metrics-keys {}", file.display());
    let server = Server::with_keys(&random_model(), &flags, Some("alice-key-1,bob-key-22"));
    let get = |key: &str, path: &str| ask(&server, key, "GET", path, &Value::Null);
    let stats = get("bob-key-22", "/stats").json();
    assert_eq!((&stats["total_workers"], &stats["workers"][0]["stats"]), (&json!(1), &Value::Null));
    assert_eq!(get("bob-key-22", "/metrics").status, 403);
    assert_eq!(get("watching-key", "/metrics").status, 200);
    assert!(get("watching-key", "/stats").json()["workers"][0]["stats"]["computed_tokens"].is_u64());
    let question = json!({"messages": user("x"), "max_tokens": 1});
    assert_eq!(ask(&server, "watching-key", "POST", CHAT, &question).status, 403);
    assert_eq!(get("watching-key", "/v1/models").status, 403);
    let alone = Server::with_keys(&random_model(), "", Some("alice-key-1"));
    assert_eq!(ask(&alone, "alice-key-1", "GET", "/metrics", &Value::Null).status, 200);
}

#[test]
fn health_answers_while_the_longest_prompts_are_tokenized() {
    let server = Server::with_variables(&random_model(), "", &[("TOKIO_WORKER_THREADS", "1")]);
    let text = "longer and longer ".repeat(55_000);
    let body = json!({"prompt": text});
    let chat = json!({"messages": user(&text), "truncation": "auto", "max_tokens": 1});
    let (mut slowest, started) = (Duration::ZERO, Instant::now());
    let took = std::thread::scope(|scope| {
        let long = |(path, body): (&'static str, &Value)| {
            let socket = server.open(path, body.clone());
            scope.spawn(move || Response::read(socket))
        };
        let asked = [("/tokenize", &body), (TEXT, &body), (CHAT, &chat)];
        let threads: Vec<_> = asked.into_iter().cycle().take(24).map(long).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            slowest = slowest.max(server.health_takes());
        }
        started.elapsed()
    });
    println!("/health took {slowest:?} at most, the prompts {took:?}");
    assert!(slowest < took / 4 || slowest < Duration::from_millis(100), "{slowest:?} of {took:?}");
}
