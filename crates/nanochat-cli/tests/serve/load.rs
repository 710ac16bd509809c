//! Tests many clients at once, with rude and slow ones among them. Slow tier.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nanochat_tensor::Rng;
use serde_json::{Value, json};

use crate::common::*;

const CLIENTS: usize = 200;
const SPAN: Duration = Duration::from_secs(60);
const QUESTIONS: usize = 40;

fn question(i: usize) -> Value {
    json!({"messages": user(&format!("client {i}")), "seed": i, "max_tokens": 120, "stream": true})
}

/// Reads `most` bytes, pausing before each read.
fn read_slowly(socket: &mut impl Read, most: usize, rest: Duration) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 512]);
    while bytes.len() < most {
        std::thread::sleep(rest);
        match socket.read(&mut piece) {
            Ok(n @ 1..) => bytes.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    bytes
}

#[test]
fn two_hundred_clients_get_whole_answers_while_others_leave() {
    if !slow("two_hundred_clients_get_whole_answers_while_others_leave") {
        return;
    }
    let mut server = Server::start(&random_model(), "--max-rows 32 --max-queue 64");
    let expected: Vec<String> = (0..QUESTIONS).map(|i| server.post(CHAT, question(i)).streamed()).collect();
    let (whole, left, busy) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let started = Instant::now();
    let mut memory = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, expected, whole, left, busy) = (&server, &expected, &whole, &left, &busy);
            scope.spawn(move || {
                let mut rng = Rng::new(&[client as u64]);
                while started.elapsed() < SPAN {
                    let i = rng.below(QUESTIONS);
                    let mut socket = server.open(CHAT, question(i));
                    if client % 3 == 0 {
                        let most = rng.below(6_000);
                        read_slowly(&mut socket, most, Duration::ZERO);
                        left.fetch_add(1, Relaxed);
                        continue; // which closes the connection
                    }
                    if client % 10 == 1 {
                        read_slowly(&mut socket, 2_000, Duration::from_millis(100));
                        left.fetch_add(1, Relaxed);
                        continue;
                    }
                    let response = Response::read(socket);
                    match response.status {
                        429 => {
                            busy.fetch_add(1, Relaxed);
                            std::thread::sleep(Duration::from_millis(100));
                        }
                        200 => {
                            assert!(response.events().1, "an answer broke off");
                            assert_eq!(response.streamed(), expected[i], "question {i}");
                            whole.fetch_add(1, Relaxed);
                        }
                        status => panic!("{status}: {}", response.text()),
                    }
                }
            });
        }
        scope.spawn(|| {
            while started.elapsed() < SPAN {
                std::thread::sleep(Duration::from_secs(1));
                memory.extend(server.memory());
            }
        });
    });
    println!("{whole:?} whole, {left:?} left, {busy:?} told to come again; MiB by second: {memory:?}");
    assert!(whole.into_inner() > CLIENTS && left.into_inner() > CLIENTS / 3);
    let half = memory.len() / 2;
    let (early, late) = (memory[half / 2..half].iter().max(), memory[half..].iter().max());
    assert!(late.unwrap() <= &(early.unwrap() * 11 / 10 + 16), "memory grows: {memory:?}");
    std::thread::sleep(Duration::from_millis(500));
    let stats = server.get("/stats").json();
    assert_eq!((&stats["queue_length"], &stats["busy_workers"]), (&json!(0), &json!(0)), "{stats}");
    server.assert_well();
}

#[test]
fn termination_under_load_leaves_nobody_without_an_end() {
    if !slow("termination_under_load_leaves_nobody_without_an_end") {
        return;
    }
    let mut server = Server::start(&endless_model(), "--grace 2");
    let long = json!({"messages": user("x"), "max_tokens": 4000, "stream": true});
    let answers: Vec<_> = (0..100).map(|_| server.open(CHAT, long.clone())).collect();
    std::thread::sleep(Duration::from_millis(500));
    server.terminate();
    let asked = Instant::now();
    let readers: Vec<_> =
        answers.into_iter().map(|socket| std::thread::spawn(|| Response::read(socket))).collect();
    for reader in readers {
        let response = reader.join().unwrap();
        let (events, done) = response.events();
        let told = events.last().is_some_and(|event| event["error"]["code"] == "shutting_down");
        assert!(done || told || response.status == 503, "{}: {:?}", response.status, events.last());
    }
    assert_eq!(server.ended(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn whoever_sends_too_slowly_is_hung_up_on() {
    if !slow("whoever_sends_too_slowly_is_hung_up_on") {
        return;
    }
    let mut server = Server::start(&random_model(), "");
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n",
        server.address
    );
    std::thread::scope(|scope| {
        let drip = |first: String, drop: &'static str| {
            let server = &server;
            scope.spawn(move || {
                let mut socket = server.connect();
                let started = Instant::now();
                socket.write_all(first.as_bytes()).unwrap();
                // Reading would wait for the server; writing to a closed connection fails at the second attempt.
                while started.elapsed() < Duration::from_secs(40) && socket.write_all(drop.as_bytes()).is_ok()
                {
                    std::thread::sleep(Duration::from_millis(500));
                }
                started.elapsed()
            })
        };
        let slow =
            [drip(String::new(), " "), drip(head.clone(), "x-drip: 1\r\n"), drip(format!("{head}\r\n"), " ")];
        for (i, thread) in slow.into_iter().enumerate() {
            let took = thread.join().unwrap();
            assert!(took < Duration::from_secs(35), "client {i} was heard for {took:?}");
        }
        // A connection that sends nothing at all.
        let mut idle = server.connect();
        let started = Instant::now();
        assert_eq!(idle.read(&mut [0; 10]).unwrap_or(0), 0);
        assert!(started.elapsed() < Duration::from_secs(35));
    });
    server.assert_well();
}
