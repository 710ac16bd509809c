//! Tests malicious and nonsensical requests: each is refused with a 4xx in OpenAI's form, and the server continues.

use std::io::Write;

use serde_json::{Value, json};

use crate::common::*;

/// Returns bodies that are invalid for every route.
fn nonsense() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "true",
        "\"text\"",
        "0",
        "{}",
        "{\"messages\":",
        "{'messages': []}",
        "NaN",
        "{\"messages\": NaN, \"prompt\": NaN}",
        "\u{feff}{}",
        "{\"messages\": [}]}",
        "{\"a\":1}{\"b\":2}",
        "// comment",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    bodies.push(vec![0xff, 0xfe, 0x00]);
    bodies.push(
        b"{\"prompt\": \"\xc3\x28\", \"messages\": [{\"role\": \"user\", \"content\": \"\xe4\xb8\"}]}"
            .to_vec(),
    );
    bodies.push(
        b"{\"prompt\": \"\\ud8\", \"messages\": [{\"role\": \"user\", \"content\": \"\\ud8\"}]}".to_vec(),
    );
    bodies.push("[".repeat(100_000).into_bytes());
    bodies.push("{\"messages\":".repeat(50_000).into_bytes());
    bodies.push(format!("{{\"prompt\": {}1{}}}", "[".repeat(500), "]".repeat(500)).into_bytes());
    bodies
}

/// Returns chats with an invalid field beside valid messages.
fn bad_fields() -> Vec<Value> {
    vec![
        json!({"temperature": -0.1}),
        json!({"temperature": 2.1}),
        json!({"temperature": 1e300}),
        json!({"temperature": "hot"}),
        json!({"top_p": -1}),
        json!({"top_p": 1.5}),
        json!({"top_k": 0.5}),
        json!({"min_p": 2}),
        json!({"min_p": -0.1}),
        json!({"repetition_penalty": 0}),
        json!({"repetition_penalty": 1e9}),
        json!({"presence_penalty": 3}),
        json!({"frequency_penalty": -3}),
        json!({"frequency_penalty": []}),
        json!({"top_k": "all"}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": -2}),
        json!({"max_tokens": 1e40}),
        json!({"max_tokens": 1.5}),
        json!({"n": 0}),
        json!({"n": 17}),
        json!({"n": -1}),
        json!({"n": 1e9}),
        json!({"stop": 5}),
        json!({"stop": [[]]}),
        json!({"stop": vec!["x"; 17]}),
        json!({"stop": "x".repeat(1001)}),
        json!({"seed": "seven"}),
        json!({"seed": 1e40}),
        json!({"stream": "yes"}),
        json!({"stream_options": 5}),
        json!({"logit_bias": {"5": 100}}),
        json!({"logit_bias": []}),
        json!({"model": 5}),
        json!({"model": "../../etc/passwd"}),
        json!({"model": "x".repeat(10_000)}),
    ]
}

fn bad_messages() -> Vec<Value> {
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let turns =
        |roles: &[&str]| roles.iter().map(|role| json!({"role": role, "content": "x"})).collect::<Value>();
    let many = |n: usize, text: &str| {
        let role = |i: usize| if i.is_multiple_of(2) { "user" } else { "assistant" };
        (0..n).map(|i| json!({"role": role(i), "content": text})).collect::<Value>()
    };
    vec![
        json!([]),
        json!({}),
        json!("hi"),
        json!([[]]),
        json!([{}]),
        json!([{"role": "user"}]),
        json!([{"content": "x"}]),
        user(json!("")),
        user(json!(" \n")),
        user(json!(null)),
        user(json!(5)),
        user(json!({"text": "x"})),
        user(json!([])),
        user(json!([{"type": "image_url", "image_url": {"url": "http://x"}}])),
        user(json!([{"type": "python", "text": "1+1"}])),
        user(json!([{"type": "text"}])),
        user(json!("你".repeat(8001))),
        user(json!("x ".repeat(300))),
        turns(&["assistant"]),
        turns(&["system"]),
        turns(&["user", "assistant"]),
        turns(&["tool"]),
        turns(&["user", "tool", "user"]),
        turns(&["<|bos|>"]),
        turns(&["User"]),
        many(501, "x"),
        many(9, &"x".repeat(4000)),
    ]
}

fn bad_completions() -> Vec<Value> {
    vec![
        json!({"prompt": null}),
        json!({"prompt": []}),
        json!({"prompt": {}}),
        json!({"prompt": 5}),
        json!({"prompt": [[]]}),
        json!({"prompt": [-1]}),
        json!({"prompt": [265]}),
        json!({"prompt": [4294967296u64]}),
        json!({"prompt": [0.5]}),
        json!({"prompt": ["x", 5]}),
        json!({"prompt": "x".repeat(600)}),
        json!({"prompt": vec![7; 513]}),
        json!({"prompt": vec!["x"; 129]}),
        json!({"prompt": "x", "logprobs": 21}),
        json!({"prompt": "x", "logprobs": true}),
        json!({"prompt": "x", "best_of": 5}),
        json!({"prompt": "x", "suffix": "y"}),
        json!({"prompt": "x", "max_tokens": 0}),
        json!({"prompt": "x", "echo": "yes"}),
    ]
}

#[track_caller]
fn check(response: &Response, what: &str) {
    assert!((400..500).contains(&response.status), "{}: {what}: {}", response.status, response.text());
    let error = response.json()["error"].clone();
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {error}");
    assert!(
        error["type"].is_string() && error.get("code").is_some() && error.get("param").is_some(),
        "{error}"
    );
    assert!(response.text().len() < 1000, "{what}: an answer need not repeat the request");
}

#[test]
fn nonsense_is_refused_everywhere_and_the_server_goes_on() {
    let mut server = Server::start(&random_model(), "");
    let mut sent = 0;
    let mut refuse = |path: &str, body: Vec<u8>| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        check(&Request::new("POST", path, body).send(&server), &format!("{path} {shown}"));
        sent += 1;
    };
    for body in nonsense() {
        for path in [CHAT, TEXT, "/chat/completions", "/tokenize", "/detokenize"] {
            refuse(path, body.clone());
        }
    }
    for messages in bad_messages() {
        for path in [CHAT, "/chat/completions"] {
            refuse(path, json!({"messages": messages}).to_string().into_bytes());
        }
    }
    for fields in bad_fields() {
        for (path, mut body) in [(CHAT, json!({"messages": user("x")})), (TEXT, json!({"prompt": "x"}))] {
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            refuse(path, body.to_string().into_bytes());
        }
    }
    for fields in [
        json!({"logprobs": true, "top_logprobs": 21}),
        json!({"top_logprobs": 1}),
        json!({"tools": [{}]}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"truncation": "some"}),
    ] {
        let mut body = fields;
        body["messages"] = user("x");
        refuse(CHAT, body.to_string().into_bytes());
    }
    for body in bad_completions() {
        refuse(TEXT, body.to_string().into_bytes());
    }
    for native in [json!({"temperature": 3}), json!({"top_k": 300}), json!({"max_tokens": 5000})] {
        let mut body = native;
        body["messages"] = user("x");
        refuse("/chat/completions", body.to_string().into_bytes());
    }
    assert!(sent >= 200, "{sent}");
    server.assert_well();
}

#[test]
fn paths_methods_and_headers_lead_nowhere() {
    let mut server = Server::start(&random_model(), "");
    for path in [
        "/../Cargo.toml",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/web/../app.js",
        "//etc/passwd",
        "/app.js/",
        "/.git/config",
        "/index.html%00",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%ff",
        "/v1",
        "/nothing",
        "/\\windows",
    ] {
        check(&server.get(path), path);
    }
    for (method, path) in [
        ("GET", CHAT),
        ("PUT", TEXT),
        ("DELETE", "/v1/models"),
        ("POST", "/"),
        ("TRACE", "/"),
        ("X", "/stats"),
    ] {
        check(&Request::new(method, path, "").send(&server), &format!("{method} {path}"));
    }
    let body = json!({"messages": user("x")}).to_string();
    let with =
        |name: &str, value: &str| Request::new("POST", CHAT, body.clone()).header(name, value).send(&server);
    assert_eq!(with("content-type", "text/plain").status, 415);
    assert_eq!(with("host", "evil.example").status, 403, "a name that was pointed at this machine");
    for (name, value) in [
        ("content-length", "-1"),
        ("content-length", "99999999999999999999999"),
        ("transfer-encoding", "gzip, identity"),
    ] {
        let status = with(name, value).status;
        assert!(status == 0 || (400..500).contains(&status), "{name}: {value}: {status}");
    }
    let many = (0..200)
        .fold(Request::new("GET", "/health", ""), |r, i| r.header(&format!("x-{i}"), "y"))
        .send(&server);
    assert!(many.status == 0 || (400..500).contains(&many.status), "{}", many.status);
    let long = Request::new("GET", &format!("/{}", "x".repeat(200_000)), "").send(&server);
    assert!(long.status == 0 || (400..500).contains(&long.status), "{}", long.status);
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        let mut socket = server.connect();
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_ne!(Response::read(socket).status, 200);
    }
    server.assert_well();
}

#[test]
fn a_body_too_large_is_not_read() {
    let mut server = Server::start(&random_model(), "");
    let said = Request::new("POST", CHAT, "{").header("content-length", "1073741824").send(&server);
    assert_eq!(said.status, 413);
    let mut socket = server.connect();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        server.address
    );
    socket.write_all(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    // 1 GiB in chunks: the server must close the connection long before the end.
    let taken = (0..16_384).take_while(|_| socket.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(taken < 2_000, "{taken} chunks of 64 KiB were taken");
    server.assert_well();
}
