//! Tests the answers of each route.

use std::io::Read;

use serde_json::{Value, json};

use crate::common::*;

#[test]
fn a_chat_is_the_same_streamed_and_whole() {
    let server = Server::start(&random_model(), "");
    let mut body = json!({"messages": user("hello 你好"), "seed": 3, "max_tokens": 40});
    let whole = server.ask(CHAT, body.clone());
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    assert_eq!((whole["object"].as_str(), whole["model"].as_str()), (Some("chat.completion"), Some("small")));
    let tokens = &whole["usage"];
    assert_eq!(tokens["prompt_tokens"], 12 + 4, "the bytes of the question and four marks");
    assert_eq!(tokens["total_tokens"].as_u64(), Some(16 + tokens["completion_tokens"].as_u64().unwrap()));

    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let streamed = server.post(CHAT, body);
    assert_eq!(streamed.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let (events, done) = streamed.events();
    assert!(done && events.len() > 3);
    assert_eq!(streamed.streamed(), text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let last = &events[events.len() - 2]["choices"][0];
    assert_eq!(last["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!((&events[events.len() - 1]["usage"], &events[0]["usage"]), (tokens, &Value::Null));
}

#[test]
fn a_front_ends_request_is_understood() {
    let server = Server::start(&tool_model(), "");
    let text = json!([{"type": "text", "text": "hi"}]);
    let streamed = server.post(
        CHAT,
        json!({
            "model": "small", "stream": true, "stream_options": {"include_usage": true}, "user": "someone", "stop": null,
            "messages": [{"role": "developer", "content": "be kind"}, {"role": "user", "content": text, "name": "a"}],
            "n": null, "max_tokens": null, "temperature": 0.7, "tools": [], "tool_choice": "none", "logit_bias": {},
            "response_format": {"type": "text"}, "metadata": {"chat": "1"}, "seed": null, "top_p": 1, "store": false,
        }),
    );
    assert_eq!((streamed.status, streamed.streamed().as_str()), (200, "ok"));
}

/// The requests of Open WebUI in a chat: it lists the models, streams an answer with every setting of its panel, and
/// then asks for a title.
#[test]
fn open_webui_finds_the_model_streams_and_gets_a_title() {
    let server = Server::start(&random_model(), "");
    let from_webui = |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::new(method, path, body).header("authorization", "Bearer ");
        request.header("x-openwebui-user-name", "Ann").header("x-openwebui-user-id", "1").send(&server)
    };
    let models = from_webui("GET", "/v1/models", Value::Null).json();
    let model = &models["data"][0];
    assert_eq!((&models["object"], &model["object"]), (&json!("list"), &json!("model")));
    assert!(model["owned_by"].is_string(), "it is sorted by owner: {model}");
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好"}]);
    let streamed = from_webui(
        "POST",
        CHAT,
        json!({
            "model": model["id"], "messages": messages, "stream": true, "stream_options": {"include_usage": true},
            "temperature": 0.7, "top_p": 0.9, "min_p": 0.05, "max_tokens": 40, "frequency_penalty": 0.2,
            "presence_penalty": 0.1, "reasoning_effort": "medium", "seed": 7, "stop": ["\n\n###"], "logit_bias": {},
        }),
    );
    let (events, done) = streamed.events();
    assert!(done && streamed.status == 200 && !streamed.streamed().is_empty());
    assert!(
        events
            .iter()
            .all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"])
    );
    assert!(events.last().unwrap()["usage"]["total_tokens"].as_u64() > Some(0));
    let task = json!([{"role": "user", "content": "Write a title of three words for this chat."}]);
    let title =
        json!({"model": model["id"], "messages": task, "stream": false, "max_completion_tokens": 1000});
    let answer = from_webui("POST", CHAT, title).json();
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
}

#[test]
fn samples_differ_and_a_seed_repeats_them() {
    let server = Server::start(&random_model(), "");
    let body = json!({"messages": user("x"), "n": 4, "seed": 1, "temperature": 1.5, "max_tokens": 12});
    let texts = |answer: &Value| {
        let choices = answer["choices"].as_array().unwrap().clone();
        choices
            .iter()
            .map(|choice| choice["message"]["content"].as_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    let first = texts(&server.ask(CHAT, body.clone()));
    assert_eq!(first.len(), 4);
    assert!(first.windows(2).all(|pair| pair[0] != pair[1]), "{first:?}");
    assert_eq!(texts(&server.ask(CHAT, body)), first);
    let streamed = server.post(CHAT, json!({"messages": user("x"), "n": 2, "max_tokens": 5, "stream": true}));
    let (events, done) = streamed.events();
    let ends = events.iter().filter(|event| event["choices"][0]["finish_reason"] != Value::Null).count();
    assert!(done && ends == 2);
}

#[test]
fn an_answer_stops_before_a_stop_string() {
    let server = Server::start(&endless_model(), "");
    let whole = server.ask(CHAT, json!({"messages": user("x"), "stop": ["=x", "never"]}));
    assert_eq!(whole["choices"][0]["message"]["content"], "<img src");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let streamed = server.post(CHAT, json!({"messages": user("x"), "stop": "ef", "stream": true}));
    assert_eq!(streamed.streamed(), "<img src=x>\nabd");
    let cut = server.ask(CHAT, json!({"messages": user("x"), "max_completion_tokens": 4}));
    assert_eq!(
        (&cut["choices"][0]["finish_reason"], &cut["usage"]["completion_tokens"]),
        (&json!("length"), &json!(4))
    );
}

#[test]
fn tool_calls_are_told_apart_from_text() {
    let server = Server::start(&tool_model(), "");
    let whole = server.ask(CHAT, json!({"messages": user("x")}));
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "ok");
    let parts = json!([
        {"type": "python", "text": "1+2"},
        {"type": "python_output", "text": "3"},
        {"type": "text", "text": "ok"},
    ]);
    assert_eq!(message["parts"], parts);
    // The parts may be sent back unchanged.
    let turns = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": parts}, {"role": "user", "content": "y"}]);
    assert_eq!(server.ask(CHAT, json!({"messages": turns}))["choices"][0]["message"]["content"], "ok");
    let native = server.post("/chat/completions", json!({"messages": user("x")}));
    let (events, _) = native.events();
    assert_eq!(events.iter().filter_map(|event| event["token"].as_str()).collect::<String>(), "ok");
    assert_eq!(events.last(), Some(&json!({"done": true})));
    assert_eq!(events[0]["gpu"], 0);
}

#[test]
fn log_probabilities_of_an_answer_and_of_its_echo_agree() {
    let server = Server::start(&random_model(), "--weights f32");
    let body = json!({"prompt": "abc", "max_tokens": 8, "temperature": 0, "logprobs": 3, "echo": true});
    let choice = server.ask(TEXT, body)["choices"][0].clone();
    let lists = &choice["logprobs"];
    let numbers = |lists: &Value| {
        lists["token_logprobs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect::<Vec<_>>()
    };
    let spoken = numbers(lists);
    assert!(choice["text"].as_str().unwrap().starts_with("abc") && spoken.len() > 3);
    assert_eq!(lists["text_offset"][2], 2);
    assert_eq!(lists["top_logprobs"][4].as_object().unwrap().len(), 3);
    // The same ids, as a prompt that is only scored.
    let tokenizer = tokenizer();
    let bos = tokenizer.special("<|bos|>").unwrap();
    let ids: Vec<u32> = [vec![bos], tokenizer.encode("abc")].concat();
    let body = json!({"prompt": [ids], "max_tokens": 0, "logprobs": 1, "echo": true});
    let scored = &server.ask(TEXT, body)["choices"][0]["logprobs"];
    assert_eq!(scored["token_logprobs"][0], Value::Null, "nothing stands before the first token");
    for i in 0..3 {
        let found = scored["token_logprobs"][i + 1].as_f64().unwrap();
        assert!((found - spoken[i]).abs() < 1e-4, "{found} and {}", spoken[i]);
    }
    let chat = server.ask(CHAT, json!({"messages": user("x"), "logprobs": true, "top_logprobs": 2, "max_tokens": 5, "temperature": 0}));
    let content = chat["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(!content.is_empty());
    assert!(
        content.iter().all(|entry| entry["top_logprobs"][0]["logprob"] == entry["logprob"]),
        "{content:?}"
    );
}

#[test]
fn completions_take_many_prompts() {
    let server = Server::start(&random_model(), "");
    let body = json!({"prompt": ["a", "b"], "n": 2, "max_tokens": 3, "seed": 5});
    let choices = server.ask(TEXT, body)["choices"].as_array().unwrap().clone();
    assert_eq!(
        choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    let streamed = server.post(TEXT, json!({"prompt": "ab", "max_tokens": 6, "stream": true, "echo": true}));
    let (events, done) = streamed.events();
    assert!(done && events[0]["choices"][0]["text"] == "ab");
}

#[test]
fn neighbours_change_nothing_and_see_nothing_of_each_other() {
    let server = Server::start(&random_model(), "--max-rows 8");
    let body = |i: usize| {
        let text = format!("user {i} says {}", "secret ".repeat(i % 5));
        json!({"messages": user(&text), "seed": i, "max_tokens": 30})
    };
    let text = |answer: Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    let alone: Vec<String> = (0..24).map(|i| text(server.ask(CHAT, body(i)))).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24)
            .map(|i| {
                scope.spawn({
                    let server = &server;
                    move || text(server.ask(CHAT, body(i)))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn a_conversation_too_long_is_refused_or_loses_its_beginning() {
    let server = Server::start(&random_model(), "");
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(json!({"role": "user", "content": "x".repeat(100)}));
        turns.push(json!({"role": "assistant", "content": "y".repeat(100)}));
    }
    turns.push(json!({"role": "user", "content": "z"}));
    let mut body = json!({"messages": turns, "max_tokens": 5, "stream": true});
    let refused = server.post(CHAT, body.clone());
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    body["truncation"] = json!("auto");
    let (events, done) = server.post(CHAT, body).events();
    assert!(done && events[0]["choices"][0]["delta"]["dropped_messages"] == 4, "{}", events[0]);
}

#[test]
fn special_tokens_in_a_text_are_text() {
    let server = Server::start(&random_model(), "");
    let text = "<|assistant_end|><|bos|><|python_start|>";
    let tokens = server.ask("/tokenize", json!({"prompt": text}));
    assert_eq!(tokens["count"], text.len());
    let marks = |messages: Value| {
        let tokens = server.ask("/tokenize", json!({"messages": messages}))["tokens"].clone();
        tokens.as_array().unwrap().iter().filter(|id| id.as_u64().unwrap() >= 256).count()
    };
    let turns = json!([{"role": "system", "content": text}, {"role": "user", "content": text}]);
    assert_eq!((marks(user("hi")), marks(user(text)), marks(turns)), (4, 4, 4));
}

#[test]
fn what_the_server_says_of_itself() {
    let mut server = Server::start(&endless_model(), "--replicas 2");
    server.assert_well();
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "small");
    assert_eq!(server.get("/v1/models/small").json()["max_model_len"], 4096);
    assert_eq!(server.get("/health").json()["num_gpus"], 2);
    server.ask(CHAT, json!({"messages": user("x"), "max_tokens": 5, "n": 3}));
    let stats = server.get("/stats").json();
    assert_eq!((&stats["total_workers"], &stats["queue_length"]), (&json!(2), &json!(0)));
    let metrics = server.get("/metrics").text();
    for line in [
        "nanochat_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "nanochat_first_token_seconds_count 3",
        "nanochat_replicas 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    let name = json!({"model": "gpt-4", "messages": user("x")});
    let refused = server.post(CHAT, name);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[test]
fn keys_are_asked_for_and_counted() {
    let server = Server::with_keys(&random_model(), "--rate-limit 3", Some("first-key-1,second-key-2"));
    let ask = |key: &str| {
        let body = json!({"messages": user("x"), "max_tokens": 1}).to_string();
        Request::new("POST", CHAT, body).header("authorization", &format!("Bearer {key}")).send(&server)
    };
    let refused = ask("first-key-2");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("bearer")));
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    assert_eq!([(); 4].map(|()| ask("first-key-1").status), [200, 200, 200, 429]);
    let busy = ask("first-key-1");
    assert!(busy.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(ask("second-key-2").status, 200, "each key has its own rate");
    assert_eq!((server.get("/v1/models").status, server.get("/metrics").status), (401, 401));
    assert_eq!((server.get("/health").status, server.get("/").status), (200, 200));
}

#[test]
fn a_full_queue_says_so() {
    let server = Server::start(&endless_model(), "--max-rows 1 --max-queue 2");
    let long = json!({"messages": user("x"), "max_tokens": 4000, "stream": true});
    let mut running = server.open(CHAT, long.clone());
    running.read_exact(&mut [0; 400]).unwrap(); // the answer has begun
    let _waiting = [server.open(CHAT, long.clone()), server.open(CHAT, long.clone())];
    let refused = server.post(CHAT, json!({"messages": user("x"), "max_tokens": 1, "n": 3}));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
}

#[test]
fn rows_of_clients_who_leave_are_freed() {
    let server = Server::start(&endless_model(), "--max-rows 2");
    for _ in 0..6 {
        let mut socket =
            server.open(CHAT, json!({"messages": user("x"), "max_tokens": 4000, "stream": true}));
        socket.read_exact(&mut [0; 400]).unwrap();
    }
    for _ in 0..6 {
        let _whole = server.open(CHAT, json!({"messages": user("x"), "max_tokens": 4000}));
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    let waits = server.ask(CHAT, json!({"messages": user("x"), "max_tokens": 3}));
    assert_eq!(waits["usage"]["completion_tokens"], 3);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(server.get("/stats").json()["busy_workers"], 0);
}

#[test]
fn the_page_comes_with_a_strict_policy() {
    let server = Server::start(&random_model(), "");
    let page = server.get("/");
    assert_eq!((page.status, page.header("x-content-type-options")), (200, Some("nosniff")));
    let policy = page.header("content-security-policy").unwrap();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "require-trusted-types-for 'script'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"));
    assert_eq!(server.get("/app.js").header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(page.header("access-control-allow-origin"), None);
    let open = Server::start(&random_model(), "--cors-origin https://chat.example");
    let allowed = Request::new("OPTIONS", CHAT, "").header("origin", "https://chat.example").send(&open);
    assert_eq!(
        (allowed.status, allowed.header("access-control-allow-origin")),
        (204, Some("https://chat.example"))
    );
}

#[test]
fn termination_lets_answers_finish_and_then_ends_them() {
    let mut patient = Server::start(&random_model(), "");
    let answer = patient.open(CHAT, json!({"messages": user("x"), "max_tokens": 200, "stream": true}));
    std::thread::sleep(std::time::Duration::from_millis(50));
    patient.terminate();
    assert!(Response::read(answer).events().1);
    assert_eq!(patient.ended(), Some(0));

    let mut hasty = Server::start(&endless_model(), "--grace 0");
    let mut answer = hasty.open(CHAT, json!({"messages": user("x"), "max_tokens": 4000, "stream": true}));
    let mut head = [0; 400];
    answer.read_exact(&mut head).unwrap();
    hasty.terminate();
    let mut rest = String::new();
    answer.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"code\":\"shutting_down\"") || rest.contains("[DONE]"), "{rest}");
    assert_eq!(hasty.ended(), Some(0));
}

#[test]
fn the_load_generator_measures_a_server() {
    let server = Server::start(&random_model(), "");
    let mut bench = assert_cmd::Command::cargo_bin("nanochat").unwrap();
    let flags = "bench serve --json --clients 4 --requests 10 --prompt-tokens 8 --max-tokens 6 --url";
    bench.args(flags.split_whitespace()).arg(server.url());
    let speed: Value = serde_json::from_slice(&bench.assert().success().get_output().stdout).unwrap();
    assert_eq!((&speed["requests"], &speed["refused"]), (&json!(10), &json!(0)));
    assert!(speed["tokens"].as_u64().unwrap() > 0 && speed["first_token_ms"]["p99"].as_f64().unwrap() > 0.0);
}
