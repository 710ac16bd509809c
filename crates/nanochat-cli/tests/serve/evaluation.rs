//! Tests the requests of evaluations: likelihoods of given tokens, and the tokenizer itself.

use serde_json::{Value, json};

use crate::common::*;

/// Returns the names and log-probabilities of a choice.
#[track_caller]
fn lists(choice: &Value) -> (Vec<String>, Vec<Option<f64>>) {
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let (names, logprobs) = (list("tokens"), list("token_logprobs"));
    assert!(
        ["token_logprobs", "top_logprobs", "text_offset"].iter().all(|name| list(name).len() == names.len())
    );
    let names = names.iter().map(|name| name.as_str().unwrap().to_string()).collect();
    (names, logprobs.iter().map(Value::as_f64).collect())
}

/// Requests likelihoods like lm-eval, and reads the same part: everything after the context except the one sampled
/// token.
fn likelihoods(server: &Server, prompts: &[Vec<u32>], contexts: &[usize]) -> Vec<Vec<f64>> {
    let body = json!({
        "model": "small", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
        "echo": true,
    });
    let answer = server.ask(TEXT, body);
    let choices = answer["choices"].as_array().unwrap().iter().zip(contexts);
    let scored = choices.map(|(choice, &context)| {
        let (_, logprobs) = lists(choice);
        logprobs[context..logprobs.len() - 1].iter().map(|logprob| logprob.unwrap()).collect()
    });
    scored.collect()
}

#[test]
fn the_token_that_stops_an_answer_has_its_entry() {
    let tokenizer = tokenizer();
    let id = |name: &str| tokenizer.special(name).unwrap();
    let text = tokenizer.encode("ab");
    for stop in ["<|assistant_end|>", "<|bos|>"] {
        let server = Server::start(&chain_model(&[&text[..], &[id(stop)]].concat(), 64), "");
        let mut body =
            json!({"prompt": [text], "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": true});
        let choice = server.ask(TEXT, body.clone())["choices"][0].clone();
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("ab"), &json!("stop")));
        let (names, logprobs) = lists(&choice);
        assert_eq!(names, ["a", "b", stop]);
        assert!(logprobs[0].is_none() && logprobs[1..].iter().all(|logprob| logprob.unwrap() <= 0.0));
        assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 2]));
        body["stream"] = json!(true);
        let (events, done) = server.post(TEXT, body.clone()).events();
        let streamed = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array());
        assert!(done && streamed.flatten().eq(names.iter()));
        // Without `echo` there is only the sampled token.
        body["stream"] = json!(false);
        body["echo"] = json!(false);
        let choice = server.ask(TEXT, body)["choices"][0].clone();
        assert_eq!((choice["text"].as_str(), lists(&choice).0), (Some(""), vec![stop.to_string()]));
    }
}

#[test]
fn every_drawn_token_has_its_entry_and_what_a_tool_says_has_none() {
    let server = Server::start(&tool_model(), "");
    let start = tokenizer().special("<|assistant_start|>").unwrap();
    let body = json!({"prompt": [start], "temperature": 0, "max_tokens": 32, "logprobs": 0});
    let choice = server.ask(TEXT, body)["choices"][0].clone();
    assert_eq!(choice["text"], "ok");
    let drawn = ["<|python_start|>", "1", "+", "2", "<|python_end|>", "o", "k", "<|assistant_end|>"];
    assert_eq!(lists(&choice).0, drawn);
    // A chat has an entry for each token of its text.
    let chat = server.ask(CHAT, json!({"messages": user("x"), "logprobs": true, "temperature": 0}));
    let content = chat["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(content.iter().map(|entry| &entry["token"]).eq(["o", "k"]), "{content:?}");
}

#[test]
fn token_ids_are_scored_as_they_are_and_a_text_after_bos() {
    let server = Server::start(&random_model(), "--weights f32");
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("The town");
    let with_bos = [vec![tokenizer.special("<|bos|>").unwrap()], ids.clone()].concat();
    let scored = |prompt: Value| {
        let choice =
            server.ask(TEXT, json!({"prompt": prompt, "max_tokens": 0, "logprobs": 1, "echo": true}));
        lists(&choice["choices"][0])
    };
    let (plain, after_bos, text) =
        (scored(json!([ids])), scored(json!([with_bos])), scored(json!("The town")));
    assert_eq!((plain.0.len(), plain.1[0], after_bos.1[0]), (ids.len(), None, None));
    assert_eq!(text.0, plain.0, "bos is not the client's and is not shown");
    assert!(text.1[..] == after_bos.1[1..] && text.1[0].is_some());
    assert!(plain.1[1..] != text.1[1..], "what stands before changes what comes after");
}

#[test]
fn an_evaluation_needs_no_tokenizer_of_its_own() {
    let server = Server::start(&random_model(), "--weights f32");
    let tokenizer = tokenizer();
    let info = server.get("/tokenizer_info").json();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<|bos|>"), &json!("<|assistant_end|>")));
    assert_eq!(
        (&info["model_max_length"], &info["tokenizer_class"]),
        (&json!(512), &json!("PreTrainedTokenizerFast"))
    );
    assert!(info["chat_template"].as_str().unwrap().contains("<|user_start|>"));

    let tokens = |prompt: &str| {
        let answer = server.ask("/tokenize", json!({"prompt": prompt, "add_special_tokens": false}));
        let ids: Vec<u32> = serde_json::from_value(answer["tokens"].clone()).unwrap();
        assert_eq!(
            (answer["count"].as_u64(), &answer["max_model_len"]),
            (Some(ids.len() as u64), &json!(512))
        );
        ids
    };
    // Clients learn the ids of special tokens this way.
    for (name, mark) in [("bos_token", "<|bos|>"), ("eos_token", "<|assistant_end|>")] {
        assert_eq!(tokens(info[name].as_str().unwrap()), [tokenizer.special(mark).unwrap()]);
    }
    let (context, whole) = (tokens("Question: 你好?"), tokens("Question: 你好? Yes"));
    assert_eq!(whole, tokenizer.encode("Question: 你好? Yes"));
    let found = likelihoods(&server, &[whole.clone(), context.clone()], &[context.len(), 1]);
    assert_eq!((found[0].len(), found[1].len()), (whole.len() - context.len(), context.len() - 1));

    let body = json!({"prompt": "<|bos|>a", "add_special_tokens": true, "model": "small"});
    let bos = tokenizer.special("<|bos|>").unwrap();
    assert_eq!(server.ask("/tokenize", body)["tokens"], json!([bos, bos, tokenizer.encode("a")[0]]));
    let text = server.ask("/detokenize", json!({"tokens": whole, "model": "small"}));
    assert_eq!(text, json!({"prompt": "Question: 你好? Yes"}));
    let cut = server.ask("/detokenize", json!({"tokens": [bos, tokenizer.encode("你")[0]]}));
    assert_eq!(cut["prompt"], "<|bos|>\u{fffd}");
}

#[test]
fn what_cannot_be_tokenized_as_asked_is_refused_by_name() {
    let mut server = Server::start(&random_model(), "");
    let refused = |path: &str, body: Value, word: &str| {
        let response = server.post(path, body);
        let message = response.json()["error"]["message"].as_str().unwrap().to_string();
        assert!((400..500).contains(&response.status) && message.contains(word), "{path}: {message}");
    };
    refused("/tokenize", json!({"prompt": "x", "return_token_strs": true}), "return_token_strs");
    refused("/tokenize", json!({"prompt": "x", "model": "gpt-4"}), "gpt-4");
    refused("/tokenize", json!({"messages": user("x"), "add_special_tokens": true}), "add_special_tokens");
    refused(
        "/tokenize",
        json!({"messages": user("x"), "add_generation_prompt": false}),
        "add_generation_prompt",
    );
    refused("/detokenize", json!({"tokens": [265]}), "265");
    refused("/detokenize", json!({"tokens": [-1]}), "-1");
    refused("/detokenize", json!({"tokens": "x"}), "tokens");
    refused("/detokenize", json!({"tokens": [1], "skip_special_tokens": true}), "skip_special_tokens");
    // A hundred thousand names of 21 bytes: a body of half a MiB that asks for a response of two.
    let end = tokenizer().special("<|assistant_start|>").unwrap();
    refused("/detokenize", json!({"tokens": vec![end; 100_000]}), "1048576");
    server.assert_well();
}

#[test]
fn the_tokenizer_is_for_those_with_a_key() {
    let server = Server::with_keys(&random_model(), "--rate-limit 2", Some("first-key-1"));
    assert_eq!(server.get("/tokenizer_info").status, 401);
    let ask = |path: &str, body: Value| {
        let request = Request::new("POST", path, body.to_string());
        request.header("authorization", "Bearer first-key-1").send(&server).status
    };
    assert_eq!(server.post("/detokenize", json!({"tokens": [1]})).status, 401);
    assert_eq!(ask("/detokenize", json!({"tokens": [1]})), 200);
    assert_eq!(ask("/tokenize", json!({"prompt": "x"})), 200);
    assert_eq!(ask("/detokenize", json!({"tokens": [1]})), 429, "they count like other requests");
}
