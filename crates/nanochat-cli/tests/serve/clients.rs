//! Tests requests of real clients: unusual but valid requests work as intended, and an unsupported option is refused by
//! its name.

use serde_json::{Value, json};

use crate::common::*;

const NATIVE: &str = "/chat/completions";

/// Returns a chat of (role, content).
fn chat(turns: &[(&str, Value)]) -> Value {
    turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn tokens(server: &Server, messages: Value) -> Value {
    server.ask("/tokenize", json!({"messages": messages}))["tokens"].clone()
}

#[track_caller]
fn refused(response: &Response) -> (String, Value) {
    assert_eq!(response.status, 400, "{}", response.text());
    let error = response.json()["error"].clone();
    (error["message"].as_str().unwrap().to_string(), error["param"].clone())
}

#[test]
fn turns_of_front_ends_become_those_of_training() {
    let server = Server::start(&random_model(), "");
    let q = ("user", json!("q"));
    let plain = tokens(&server, user("q"));
    let empty_answer = |answer: Value| chat(&[("user", json!("hello")), ("assistant", answer), q.clone()]);
    for messages in [
        empty_answer(json!("")),
        empty_answer(json!(null)),
        chat(&[("assistant", json!("a")), q.clone()]),
        chat(&[("system", json!("")), q.clone()]),
        chat(&[q.clone(), ("assistant", json!(""))]),
        json!([
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": null, "reasoning_content": "They greet me.", "tool_calls": null},
            {"role": "user", "content": "q"},
        ]),
    ] {
        assert_eq!(tokens(&server, messages.clone()), plain, "{messages}");
        for path in [CHAT, "/v1/chat/completions/"] {
            server.ask(path, json!({"messages": messages, "max_tokens": 4}));
        }
    }
    let systems = chat(&[("system", json!("a")), q.clone(), ("developer", json!("b"))]);
    assert_eq!(tokens(&server, systems), tokens(&server, user("a\n\nb\n\nq")));
    let twice = chat(&[("user", json!("a")), ("user", json!("b"))]);
    assert_eq!(tokens(&server, twice.clone()), tokens(&server, user("a\n\nb")));
    server.ask(CHAT, json!({"messages": twice, "max_tokens": 4}));
    // The native route does the same within its limits: no empty messages, and no system messages.
    let greeted = chat(&[("assistant", json!("a")), q.clone(), ("user", json!("b"))]);
    assert_eq!(server.post(NATIVE, json!({"messages": greeted, "max_tokens": 4})).status, 200);
    assert_eq!(server.post(NATIVE, json!({"messages": empty_answer(json!(""))})).status, 400);
    assert_eq!(server.post(NATIVE, json!({"messages": chat(&[("system", json!("a")), q])})).status, 400);
}

#[test]
fn an_answer_that_is_only_a_calculation_may_be_sent_back() {
    let server = Server::start(&tool_model(), "");
    let answer = server.ask(CHAT, json!({"messages": user("x"), "stop": "ok"}));
    let message = answer["choices"][0]["message"].clone();
    assert_eq!(message["content"], "");
    let ask =
        |message: Value| json!([{"role": "user", "content": "x"}, message, {"role": "user", "content": "y"}]);
    let whole = tokens(&server, ask(message.clone()));
    assert_eq!(whole, tokens(&server, ask(json!({"role": "assistant", "content": message["parts"]}))));
    // A client that does not know parts sends only the text, which is empty.
    let text = tokens(&server, ask(json!({"role": "assistant", "content": ""})));
    assert_eq!(text, tokens(&server, user("y")));
    assert_eq!(server.ask(CHAT, json!({"messages": ask(message)}))["choices"][0]["message"]["content"], "ok");
}

#[test]
fn limits_of_the_page_bind_its_own_route_alone() {
    let server = Server::start(&random_model(), "");
    let with = |field: &str, value: Value| {
        let mut body = json!({"messages": user("x"), "seed": 1, "stop": ["\u{0}"]});
        body[field] = value;
        body
    };
    let context = 512;
    for field in ["max_tokens", "max_completion_tokens"] {
        for value in [json!(32_000), json!(1e6), json!(-1), json!(u64::MAX)] {
            let usage = server.ask(CHAT, with(field, value))["usage"].clone();
            assert!(usage["total_tokens"].as_u64().unwrap() <= context, "{usage}");
        }
    }
    let endless = Server::start(&endless_model(), "");
    let all = endless.ask(TEXT, json!({"prompt": "<img src=x>\nabdefhjk", "max_tokens": -1}));
    assert_eq!(
        (&all["usage"]["total_tokens"], &all["choices"][0]["finish_reason"]),
        (&json!(4096), &json!("length"))
    );
    let default = endless.ask(TEXT, json!({"prompt": "<img src=x>\nabdefhjk", "max_tokens": null}));
    assert_eq!(default["usage"]["completion_tokens"], 16, "OpenAI's default");
    server.ask(CHAT, with("top_k", json!(1_000_000)));
    server.ask(CHAT, json!({"messages": vec![user("x")[0].clone(); 150], "max_tokens": 1}));
    for (field, value) in [
        ("temperature", json!(2.5)),
        ("top_k", json!(201)),
        ("max_tokens", json!(4097)),
        ("max_tokens", json!(0)),
    ] {
        let (message, param) = refused(&server.post(NATIVE, json!({"messages": user("x"), field: value})));
        assert!(message.starts_with(field) && param == field, "{message}");
    }
    let turn = |length: usize| json!({"role": "user", "content": "x".repeat(length)});
    for messages in [vec![turn(8001)], vec![turn(1); 501], vec![turn(7000); 5], vec![]] {
        assert_eq!(server.post(NATIVE, json!({"messages": messages})).status, 400);
    }
}

#[test]
fn a_long_history_is_cut_without_being_rendered_again_and_again() {
    let server = Server::start(&random_model(), "");
    let mut turns = vec![json!({"role": "system", "content": "s"})];
    for i in 0..8_000 {
        turns.push(json!({"role": "user", "content": format!("question {i}")}));
        turns.push(json!({"role": "assistant", "content": format!("answer {i}")}));
    }
    turns.push(json!({"role": "user", "content": "last"}));
    let body = json!({"messages": turns, "max_tokens": 2, "truncation": "auto", "stream": true});
    let started = std::time::Instant::now();
    let (events, done) = server.post(CHAT, body).events();
    assert!(done && started.elapsed().as_secs() < 5);
    let dropped = events[0]["choices"][0]["delta"]["dropped_messages"].as_u64().unwrap();
    // 1 + s\n\n, then 4 special tokens, "question 7999" and "answer 7999" for every exchange that fits into 510 tokens.
    let kept = (510 - (1 + 3 + 4 + 2 + 1)) / (4 + 13 + 11);
    assert_eq!(dropped, 2 * (8_000 - kept));
}

#[test]
fn numbers_stops_and_texts_may_be_written_oddly() {
    let server = Server::start(&endless_model(), "");
    let plain = server.ask(CHAT, json!({"messages": user("x"), "max_tokens": 6, "seed": 7}));
    let text = &plain["choices"][0]["message"]["content"];
    for stop in [json!(""), json!([""]), json!([]), json!(null)] {
        let body = json!({"messages": user("x"), "max_tokens": 6.0, "n": 1.0, "seed": 7.0, "top_k": 50.0, "stop": stop});
        assert_eq!(&server.ask(CHAT, body)["choices"][0]["message"]["content"], text);
    }
    let raw = |path: &str, body: &str| Request::new("POST", path, body).send(&server);
    let bom = "\u{feff}{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"max_tokens\": 2}";
    assert_eq!((raw(CHAT, bom).status, raw(NATIVE, bom).status), (200, 200));
    let half = r#"{"messages": [{"role": "user", "content": "x\ud83d"}], "max_tokens": 2}"#;
    assert_eq!((raw(CHAT, half).status, raw(NATIVE, half).status), (200, 200));
    let found = raw("/tokenize", r#"{"prompt": "x\ud83d"}"#).json()["tokens"].clone();
    assert_eq!(found, server.ask("/tokenize", json!({"prompt": "x\u{fffd}"}))["tokens"]);
    let (message, _) =
        refused(&raw(CHAT, r#"{"messages": [{"role": "user", "content": "x"}], "top_p": NaN}"#));
    assert_eq!(message, "the body has NaN or Infinity, which JSON does not know");
}

/// The default bodies of known clients, with the fields that their packages add.
#[test]
fn default_requests_of_known_clients_pass() {
    let server = Server::start(&tool_model(), "");
    let turns = chat(&[("system", json!("Be brief.")), ("user", json!("x"))]);
    let parts =
        chat(&[("user", json!([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]))]);
    for (client, body) in [
        (
            "LangChain",
            json!({"stream": true, "stream_options": {"include_usage": true}, "max_completion_tokens": null}),
        ),
        ("LiteLLM", json!({"temperature": 0.0, "user": "ann", "metadata": {"trace": "1"}, "store": false})),
        ("AI SDK", json!({"max_tokens": 32_000, "temperature": 0, "stream": true, "messages": parts})),
        (
            "NextChat",
            json!({"stream": true, "temperature": 0.5, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1}),
        ),
        (
            "LobeChat",
            json!({"stream": true, "stream_options": {"include_usage": true}, "user": "ann", "temperature": 1, "top_p": 1}),
        ),
        (
            "Continue",
            json!({"max_tokens": 4096, "temperature": null, "stop": null, "prediction": null, "stream": true}),
        ),
        (
            "SillyTavern",
            json!({"max_tokens": 300, "top_k": 500, "stop": [], "logit_bias": {}, "seed": -1, "n": 1, "min_p": 0, "repetition_penalty": 1}),
        ),
        (
            "vLLM's own",
            json!({"min_tokens": 0, "ignore_eos": false, "stop_token_ids": [], "skip_special_tokens": true, "add_generation_prompt": true, "chat_template_kwargs": {"enable_thinking": false}}),
        ),
        (
            "OpenAI",
            json!({"service_tier": "auto", "parallel_tool_calls": true, "tools": [], "tool_choice": "auto", "modalities": ["text"], "prompt_cache_key": "k", "safety_identifier": "s", "reasoning_effort": "low", "verbosity": "medium", "response_format": {"type": "text"}, "stream_options": {"include_obfuscation": true}, "logprobs": false, "top_logprobs": 0, "web_search_options": null}),
        ),
    ] {
        let mut request = json!({"model": "small", "messages": turns});
        request.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let answer = server.post(CHAT, request);
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
    }
    let completion = json!({"model": "small", "prompt": "x", "suffix": null, "best_of": 1, "echo": false, "user": "ann", "logit_bias": null, "max_tokens": 16});
    server.ask(TEXT, completion);
}

#[test]
fn a_wish_that_cannot_be_met_is_refused_by_its_name() {
    let server = Server::start(&tool_model(), "");
    let wishes = json!({
        "min_tokens": 50, "ignore_eos": true, "stop_token_ids": [5], "include_stop_str_in_output": true,
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required", "functions": [{}],
        "modalities": ["text", "audio"], "audio": {"voice": "alloy"}, "prediction": {"type": "content", "content": "x"},
        "web_search_options": {}, "response_format": {"type": "json_object"}, "logit_bias": {"5": 10}, "best_of": 4,
        "guided_json": {}, "guided_regex": "a+", "structured_outputs": {}, "use_beam_search": true, "suffix": "y",
        "verbosity": "high", "enable_thinking": true, "chat_template": "x", "allowed_token_ids": [1], "bad_words": ["x"],
        "dry_multiplier": 0.8, "no_such_field": 1,
    });
    for (field, value) in wishes.as_object().unwrap() {
        for (path, mut body) in [
            (CHAT, json!({"messages": user("x")})),
            (TEXT, json!({"prompt": "x"})),
            (NATIVE, json!({"messages": user("x")})),
        ] {
            body[field] = value.clone();
            let (message, param) = refused(&server.post(path, body));
            assert!(
                message.contains(field.as_str()) && param == **field,
                "{path} {field}: {message}, {param}"
            );
        }
    }
    for (field, value) in [
        ("continue_final_message", json!(true)),
        ("add_generation_prompt", json!(false)),
        ("echo", json!(true)),
        ("tool_choice", json!({"type": "function", "function": {"name": "f"}})),
        ("chat_template_kwargs", json!({"enable_thinking": true})),
    ] {
        let (_, param) = refused(&server.post(CHAT, json!({"messages": user("x"), field: value})));
        assert_eq!(param, field);
    }
    let (message, param) =
        refused(&server.post(CHAT, json!({"messages": user("x"), "stream_options": {"every": 1}})));
    assert_eq!(
        (message.as_str(), &param),
        ("Unrecognized request argument supplied: stream_options.every", &json!("stream_options.every"))
    );
    let case =
        json!({"messages": user("hello"), "seed": 5, "max_tokens": 60, "min_tokens": 50, "ignore_eos": true});
    assert_eq!(server.post(CHAT, case).status, 400);
}

#[test]
fn an_error_names_the_field_in_the_words_of_json() {
    let server = Server::start(&tool_model(), "");
    for (fields, expected) in [
        (json!({"temperature": {}}), "temperature must be a number, found an object"),
        (json!({"temperature": "0.7"}), "temperature must be a number, found a string"),
        (json!({"stream": "yes"}), "stream must be true or false, found a string"),
        (json!({"n": 1.5}), "n must be a whole number, found 1.5"),
        (json!({"stop": [5]}), "stop must be a string or a list of strings, found 5"),
        (json!({"model": 5}), "model must be a string, found 5"),
        (
            json!({"max_completion_tokens": 0}),
            "max_completion_tokens must be at least 1, or -1 for what fits, found 0",
        ),
        (
            json!({"messages": chat(&[("user", json!("a")), ("user", json!({"a": 1}))])}),
            "messages[1].content must be a string or a list of text parts, found an object",
        ),
        (json!({"messages": "hi"}), "messages must be a list of messages, found a string"),
    ] {
        let mut body = json!({"messages": user("x")});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (message, param) = refused(&server.post(CHAT, body));
        assert_eq!(message, expected);
        assert!(message.starts_with(param.as_str().unwrap()), "{param}");
    }
    assert_eq!(refused(&server.post(CHAT, json!({}))).1, "messages");
    assert_eq!(refused(&server.post(TEXT, json!({}))).1, "prompt");
}
