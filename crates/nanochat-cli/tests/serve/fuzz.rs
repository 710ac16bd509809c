//! Sends randomly mutated requests: every response is a 200 or a 4xx, and the server continues within 1 GiB. Slow tier,
//! 20 s, or NANOCHAT_FUZZ_SECONDS.

use std::time::{Duration, Instant};

use nanochat_tensor::Rng;
use serde_json::{Value, json};

use crate::common::*;

#[path = "../../../nanochat/tests/fuzz/mutate.rs"]
mod mutate;

const ROUTES: [&str; 5] = [CHAT, TEXT, "/chat/completions", "/tokenize", "/detokenize"];

fn seeds() -> Vec<Vec<u8>> {
    let parts = json!([{"type": "python", "text": "1+2"}, {"type": "python_output", "text": "3"}]);
    let turns = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": parts}, {"role": "user", "content": [{"type": "text", "text": "你好 😀"}]}]);
    let sampling = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 5, "n": 2, "stop": ["a", "b"],
        "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "logprobs": true, "top_logprobs": 2});
    let with = |mut body: Value, more: Value| {
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        body.to_string().into_bytes()
    };
    let chat = json!({"messages": turns, "max_tokens": 8});
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}, "truncation": "auto"});
    let text = json!({"prompt": ["The old town", "b"], "max_tokens": 4, "echo": true, "logprobs": 2});
    vec![
        with(chat.clone(), sampling),
        with(chat, streamed),
        with(text, json!({"best_of": 1, "suffix": null, "user": "someone"})),
        json!({"prompt": [[1, 2, 3], [4]], "max_tokens": 0, "echo": true, "logprobs": 1})
            .to_string()
            .into_bytes(),
        json!({"prompt": "The old town", "add_special_tokens": true}).to_string().into_bytes(),
        json!({"tokens": [1, 2, 3], "model": null}).to_string().into_bytes(),
    ]
}

#[test]
fn changed_requests_never_break_the_server() {
    let seconds = std::env::var("NANOCHAT_FUZZ_SECONDS").ok();
    if seconds.is_none() && !slow("changed_requests_never_break_the_server") {
        return;
    }
    let time = Duration::from_secs(seconds.map_or(20, |seconds| seconds.parse().expect("seconds")));
    let mut server = Server::start(&tool_model(), "");
    let (seeds, start) = (seeds(), Instant::now());
    let (mut number, mut taken) = (0, 0);
    while start.elapsed() < time {
        number += 1;
        let mut rng = Rng::new(&[number]);
        let seed = rng.choose(&seeds).clone();
        let body = mutate::json_or_bytes(&seed, &seeds, &mut rng);
        let route = *rng.choose(&ROUTES);
        let asked = Instant::now();
        let response = Request::new("POST", route, body.clone()).send(&server);
        let told = || {
            format!("input {number} to {route}: {}", String::from_utf8_lossy(&body[..body.len().min(2_000)]))
        };
        assert!(matches!(response.status, 200 | 400 | 404 | 413), "{} {}", response.status, told());
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?} {}", asked.elapsed(), told());
        taken += u64::from(response.status == 200);
    }
    server.assert_well();
    let most = server.memory().unwrap_or(0);
    eprintln!("{number} requests, {taken} of them taken, {most} MiB");
    assert!(most < 1024, "{most} MiB");
    assert!(taken > 0 && taken < number, "{taken} of {number} requests were taken");
}
