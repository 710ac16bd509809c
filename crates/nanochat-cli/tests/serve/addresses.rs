//! Tests request addresses: nearly correct URLs, methods and headers, pages of other origins.

use serde_json::{Value, json};

use crate::common::*;

#[test]
fn a_page_from_the_allowed_origin_may_send_the_headers_of_its_package() {
    let server = Server::start(&random_model(), "--cors-origin http://localhost:3000");
    let asked = "authorization,content-type,x-stainless-os,x-stainless-timeout";
    let preflight = |origin: &str| {
        let request = Request::new("OPTIONS", CHAT, "").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", asked).send(&server)
    };
    let allowed = preflight("http://localhost:3000");
    assert_eq!((allowed.status, allowed.header("access-control-allow-headers")), (204, Some(asked)));
    assert_eq!(allowed.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("post"));
    assert_eq!(allowed.header("vary"), Some("origin, access-control-request-headers"));
    assert!(allowed.header("access-control-max-age").is_some());
    let elsewhere = preflight("http://evil.example");
    assert_eq!((elsewhere.status, elsewhere.head.contains("access-control")), (405, false));
    let from = |origin: &str, body: Value| {
        Request::new("POST", CHAT, body.to_string()).header("origin", origin).send(&server)
    };
    for (body, status) in [(json!({"messages": user("x"), "max_tokens": 1}), 200), (json!({}), 400)] {
        let answer = from("http://localhost:3000", body.clone());
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (status, Some("http://localhost:3000"))
        );
        assert_eq!(answer.header("access-control-expose-headers"), Some("retry-after"));
        let other = from("http://evil.example", body);
        assert!(!other.head.contains("access-control") && other.header("vary") == Some("origin"));
    }
    let any = Server::start(&random_model(), "--cors-origin *");
    let page = Request::new("GET", "/v1/models", "").header("origin", "http://a.example").send(&any);
    assert_eq!(page.header("access-control-allow-origin"), Some("http://a.example"));
}

#[test]
fn an_address_without_v1_serves_clients_who_name_a_model() {
    let server = Server::start(&tool_model(), "");
    let whole = server.ask("/chat/completions", json!({"model": "small", "messages": user("x")}));
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["message"]["content"]),
        (&json!("chat.completion"), &json!("ok"))
    );
    let streamed =
        server.post("/chat/completions", json!({"model": "small", "messages": user("x"), "stream": true}));
    assert_eq!((streamed.events().1, streamed.streamed().as_str()), (true, "ok"));
    assert_eq!(
        server.post("/chat/completions", json!({"model": "gpt-9", "messages": user("x")})).status,
        404
    );
    let native = server.post("/chat/completions", json!({"messages": user("x")}));
    assert_eq!(native.events().0.last(), Some(&json!({"done": true})));
    assert_eq!(server.get("/models").json()["data"][0]["id"], "small");
    for path in ["/completions", "/embeddings", "/v1/embeddings", "/v1/responses", "/v1/v1/chat/completions"]
    {
        let lost = server.post(path, json!({"model": "small", "prompt": "x"}));
        let error = lost.json()["error"].clone();
        assert_eq!((lost.status, &error["code"]), (404, &json!("unknown_url")), "{path}");
        assert!(error["message"].as_str().unwrap().contains(path), "{error}");
    }
}

#[test]
fn slashes_methods_and_kinds_of_content_are_taken_as_they_are_meant() {
    let server = Server::start(&tool_model(), "");
    for path in ["/v1/models/", "//v1/models", "/v1//models", "/health/"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(
        server.ask("//v1/chat/completions/", json!({"messages": user("x")}))["object"],
        "chat.completion"
    );
    let head = Request::new("HEAD", "/v1/models", "").send(&server);
    assert_eq!((head.status, head.body.len()), (200, 0));
    for (method, path, allowed) in
        [("OPTIONS", CHAT, "post"), ("GET", CHAT, "post"), ("POST", "/v1/models", "get,head")]
    {
        let wrong = Request::new(method, path, "").send(&server);
        assert_eq!((wrong.status, wrong.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    let body = json!({"messages": user("x")}).to_string();
    let kind = |kind: &str| {
        Request::new("POST", CHAT, body.clone()).header("content-type", kind).send(&server).status
    };
    assert_eq!(kind("application/json; charset=utf-8"), 200);
    assert_eq!(kind("Application/JSON;charset=UTF-8"), 200);
    assert_eq!((kind("application/jsonx"), kind("application/x-www-form-urlencoded")), (415, 415));
    // Another origin's page may send a body without a content type unasked, but the browser adds its origin.
    let unnamed = || Request::new("POST", CHAT, body.clone()).without("content-type");
    assert_eq!(unnamed().send(&server).status, 200);
    assert_eq!(unnamed().header("origin", "http://evil.example").send(&server).status, 415);
}
