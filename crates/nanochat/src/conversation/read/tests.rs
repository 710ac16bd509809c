use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::conversation::Role;
use crate::testing::tokenizer;

const PLAIN: &str = r#"[{"role":"user","content":"你好"},{"role":"assistant","content":"好"}]"#;

fn read(json: impl ToString) -> Result<Example, String> {
    parse(json.to_string().as_bytes()).map(|parsed| parsed.example)
}

/// Returns each message's role and text.
fn said(json: Value) -> Vec<(Role, String)> {
    let messages = read(json).unwrap().conversation.messages;
    messages.into_iter().map(|message| (message.role, message.content.text())).collect()
}

/// Returns the trained texts of a conversation, and their weights.
fn learned(json: Value) -> Vec<(String, f32)> {
    let tokenizer = tokenizer();
    let rendered = read(json).unwrap().render(&tokenizer, 1_000).unwrap();
    let tokens: Vec<_> = rendered.ids.iter().zip(rendered.mask.iter().zip(&rendered.weights)).collect();
    let runs = tokens.chunk_by(|a, b| a.1 == b.1).filter(|run| *run[0].1.0);
    let text = |run: &[(&u32, _)]| tokenizer.decode(&run.iter().map(|(id, _)| **id).collect::<Vec<_>>());
    runs.map(|run| (text(run).replace("<|assistant_end|>", "|"), *run[0].1.1)).collect()
}

fn turns(first: Value, second: Value) -> Value {
    let mut turns = [json!({"content": "q"}), first, json!({"content": "r"}), second];
    for (i, turn) in turns.iter_mut().enumerate() {
        turn["role"] = json!(["user", "assistant"][i % 2]);
        if i % 2 == 1 {
            turn["content"] = json!(["", "a", "", "b"][i]);
        }
    }
    json!(turns)
}

#[test]
fn the_forms_are_the_same_conversation() {
    let plain = read(PLAIN).unwrap();
    assert_eq!(serde_json::to_string(&plain.conversation.messages).unwrap(), PLAIN); // the same text as `data make` writes
    for form in [
        format!(r#"{{"id": 7, "messages": {PLAIN}, "prompt": "你好"}}"#),
        r#"{"conversations":[{"from":"human","value":"你好"},{"from":"gpt","value":"好"}],"tools":"[]"}"#
            .into(),
        r#"{"messages":[{"role":"system","content":" "},{"role":"User","content":"你好"},
            {"role":"assistant","content":null,"refusal":"好","tool_calls":null}],"system":null}"#
            .into(),
        r#"{"instruction":"你好","input":"","output":"好","history":[],"text":"Q: 你好"}"#.into(),
        r#"{"prompt":"你好","completion":"好"}"#.into(),
        r#"{"query":"你好","response":"好","images":[]}"#.into(),
        r#"{"input":"你好","output":"好"}"#.into(),
    ] {
        assert_eq!(read(&form), Ok(plain.clone()), "{form}");
    }
}

#[test]
fn alpacas_history_comes_first_and_its_input_on_a_new_line() {
    use Role::{Assistant, System, User};
    let alpaca = json!({"instruction": "Translate.", "input": "桃花", "output": "peach blossom", "system": "Be brief.",
        "history": [["Hi", "Hello"]]});
    let expected = [
        (System, "Be brief."),
        (User, "Hi"),
        (Assistant, "Hello"),
        (User, "Translate.\n桃花"),
        (Assistant, "peach blossom"),
    ];
    assert_eq!(said(alpaca), expected.map(|(role, text)| (role, text.to_string())));
}

#[test]
fn a_system_message_may_stand_beside_the_others() {
    let list: Value = serde_json::from_str(PLAIN).unwrap();
    for key in ["system", "system_prompt"] {
        assert_eq!(said(json!({"messages": list, key: "S"}))[0], (Role::System, "S".into()));
    }
    assert_eq!(said(json!({"messages": list, "system": ""})).len(), 2);
    let first = json!([{"role": "developer", "content": "S"}, list[0], list[1]]);
    assert_eq!(said(json!({"messages": first, "system": "S"})).len(), 3);
    let error = read(json!({"messages": first, "system": "T"})).unwrap_err();
    assert!(error.contains("`system` says something else than the first message"), "{error}");
    let error = read(json!({"messages": list, "system": "S", "system_prompt": "T"})).unwrap_err();
    assert!(error.contains("`system` and `system_prompt`"), "{error}");
}

#[test]
fn parts_are_read_as_they_are_written() {
    let json = r#"[{"role":"user","content":"1+1?"},{"role":"assistant","content":[{"type":"python","text":"1+1"},{"type":"python_output","text":"2"}]}]"#;
    assert_eq!(serde_json::to_string(&read(json).unwrap().conversation.messages).unwrap(), json);
}

#[test]
fn weights_are_those_of_the_messages_times_that_of_the_line() {
    let none = json!({});
    let pair = |a: f32, b: f32| vec![("a|".to_string(), a), ("b|".to_string(), b)];
    assert_eq!(learned(turns(none.clone(), none.clone())), pair(1.0, 1.0));
    for off in [
        json!({"weight": 0}),
        json!({"weight": 0.0}),
        json!({"loss": false}),
        json!({"loss": 0}),
        json!({"train": false}),
        json!({"trainable": false}),
        json!({"loss_mask": 0}),
        json!({"weight": 1, "loss": false}),
    ] {
        assert_eq!(learned(turns(off, none.clone())), pair(0.0, 1.0)[1..]);
    }
    for on in [json!({"weight": 1}), json!({"loss": null}), json!({"loss": true}), json!({"train": true})] {
        assert_eq!(learned(turns(on, none.clone())), pair(1.0, 1.0));
    }
    let half = turns(json!({"weight": 0.5}), json!({"weight": 2}));
    assert_eq!(learned(half.clone()), pair(0.5, 2.0));
    assert_eq!(learned(json!({"messages": half, "weight": 0.25})), pair(0.125, 0.5));
    let plain = turns(none.clone(), none);
    assert_eq!(learned(json!({"messages": plain, "loss_mask": [0, 0, 1, 1]})), pair(0.0, 1.0)[1..]);
    assert_eq!(learned(json!({"messages": plain, "mask": "User"})), pair(1.0, 1.0));
    for zero in
        [json!({"messages": plain, "weight": 0}), json!({"prompt": "q", "response": "a", "train": false})]
    {
        assert!(!read(&zero).unwrap().is_learned());
        assert_eq!(learned(zero), []);
    }
    // Mid-training also trains on the user's messages, but not on context.
    let rendered = read(turns(json!({"weight": 0}), json!({}))).unwrap().render(&tokenizer(), 1_000).unwrap();
    assert_eq!(rendered.weights, [vec![1.0; 4], vec![0.0; 3], vec![1.0; 6]].concat());
}

#[test]
fn a_mask_means_what_the_users_messages_say_it_means() {
    let masked = |user: Value, first: Value| {
        let mut turns = turns(json!({"mask": first}), json!({}));
        turns[0]["mask"] = user;
        turns
    };
    let second = [("b|".to_string(), 1.0)];
    for (user, first) in [(json!(0), json!(0)), (json!(true), json!(true)), (json!(false), json!(false))] {
        assert_eq!(learned(masked(user, first)), second);
    }
    for (user, first) in [(json!(0), json!(1)), (json!(true), json!(false))] {
        assert_eq!(learned(masked(user, first)).len(), 2);
    }
    let error = read(masked(Value::Null, json!(1))).unwrap_err();
    assert!(error.contains("`mask` marks what is learned in some data sets"), "{error}");
}

#[test]
fn what_is_not_used_is_told_and_what_changes_the_lesson_is_refused() {
    let list: Value = serde_json::from_str(PLAIN).unwrap();
    let mut line =
        json!({"messages": list, "id": 1, "flavour": "x", "tools": "", "images": [], "empty": null});
    line["messages"][1]["reasoning_content"] = json!("hm");
    line["messages"][0]["weight"] = json!(1);
    let mut told = Told::default();
    let place = JsonPlace { line: 1, element: None };
    for _ in 0..2 {
        let parsed = parse(line.to_string().as_bytes());
        told.take(place, parsed.map_err(|reason| panic!("{reason}")), BadLines::Fail).unwrap();
    }
    let expected = [
        "not used: `id` (2 times), `reasoning_content` of messages (2 times), `weight` of users' messages (2 times)",
        "unknown and not used: `flavour` (2 times)",
    ];
    assert_eq!(told.sentences(), expected);

    let with = |key: &str, value: Value| {
        let mut line = json!({ "messages": list });
        line[key] = value;
        line
    };
    let of_answer = |key: &str, value: Value| {
        let mut line = json!({ "messages": list });
        line["messages"][1][key] = value;
        line
    };
    let cases = [
        (with("tools", json!([{"name": "f"}])), "`tools` is not used: a nanochat model calls nothing but"),
        (with("tools", json!("[{\"name\": \"f\"}]")), "`tools` is not used"),
        (with("images", json!(["a.png"])), "`images` is not used: a nanochat model reads text alone"),
        (with("rejected", json!("x")), "`rejected` is not used"),
        (with("kto_tag", json!(false)), "`kto_tag` is not used"),
        (with("label", json!(false)), "`label` is not used"),
        (with("history", json!([["a", "b"]])), "`history` is not used"),
        (with("loss_scale", json!(2)), "`loss_scale` may say what is learned"),
        (with("weight", json!(-1)), "`weight` must be 0, or 0.000001 to 10000, not -1"),
        (with("weight", json!(1e9)), "not 1000000000.0"),
        (with("weight", json!("1")), "`weight` must be 0"),
        (with("loss", json!(2.31)), "`loss` must be true or false"),
        (with("loss_mask", json!([1])), "one for each of the 2 messages"),
        (with("mask", json!("Assistant")), "`mask` hides \"Assistant\""),
        (with("conversations", json!([])), "both `messages` and `conversations`"),
        (of_answer("tool_calls", json!([{}])), "message 2: `tool_calls` is not used"),
        (of_answer("function_call", json!({"name": "f"})), "message 2: `function_call` is not used"),
        (of_answer("refusal", json!("no")), "message 2: it has both a content and a `refusal`"),
        (of_answer("train_detail", json!([{}])), "message 2: `train_detail` may say"),
        (of_answer("weight", json!(-0.5)), "message 2: `weight` must be 0"),
        (
            of_answer("role", json!("function_call")),
            "message 2: the role \"function_call\" is of a function call",
        ),
        (json!({"instruction": "a", "prompt": "b", "output": "c"}), "`instruction` and `prompt` all ask"),
        (json!({"prompt": "a", "output": "c", "response": "d"}), "`output` and `response` all answer"),
        (json!({"prompt": "a", "output": "c", "history": "x"}), "`history` must be a list of pairs"),
    ];
    for (line, expected) in cases {
        let reason = read(&line).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }
    let mut user = json!({ "messages": list });
    user["messages"][0]["train"] = json!(true);
    let reason = read(user).unwrap_err();
    assert!(reason.contains("message 1: the user's message is marked to be learned"), "{reason}");
    let nan = format!(r#"{{"messages": {PLAIN}, "weight": NaN}}"#);
    assert!(read(nan).unwrap_err().contains("`weight` is NaN"));
    assert!(read(format!(r#"{{"messages": {PLAIN}, "score": NaN}}"#)).is_ok());
}

#[test]
fn mistakes_are_named() {
    let cases: [(&[u8], &str); 12] = [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"3", "not a conversation"),
        (br#"{"text": "a document"}"#, "not a conversation"),
        (b"[]", "no messages"),
        (b"[1]", "message 1: not an object"),
        (br#"[{"content":"x"}]"#, "message 1: no role"),
        (br#"[{"role":"robot","content":"x"}]"#, "unknown role \"robot\""),
        (br#"[{"role":"user","content":1}]"#, "content must be a string"),
        (br#"[{"role":"user","content":[{"type":"image","text":""}]}]"#, "unknown part type \"image\""),
        (br#"[{"role":"user","content":"x"}]"#, "does not end with the assistant"),
        (br#"[{"role":"assistant","content":"x"}]"#, "it is the user's turn"),
    ];
    for (line, expected) in cases {
        let reason = parse(line).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }
    let deep = "[".repeat(100_000);
    assert!(parse(deep.as_bytes()).unwrap_err().contains("not JSON"));
}

fn file(name: &str, text: &str, bad_lines: BadLines) -> (Vec<Result<String, String>>, Vec<String>) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join(name);
    std::fs::write(&path, text).unwrap();
    let mut examples = Examples::open(&path, bad_lines).unwrap();
    let place = |read: Result<(JsonPlace, Example), ExamplesError>| match read {
        Ok((place, _)) => Ok(place.to_string()),
        Err(error) => Err(error.to_string()),
    };
    (examples.by_ref().map(place).collect(), examples.sentences())
}

#[test]
fn bad_lines_are_errors_or_skipped_and_counted() {
    let empty = r#"[{"role":"user","content":""}]"#;
    let text = format!("{PLAIN}\n\n{empty}\n{PLAIN}\n{{\n");
    let (read, _) = file("chat.jsonl", &text, BadLines::Fail);
    assert_eq!(read[0], Ok("line 1".into()));
    let error = read[1].as_ref().unwrap_err();
    assert!(error.ends_with("chat.jsonl, line 3: message 1 is empty"), "{error}");
    assert_eq!(read[2], Ok("line 4".into()));
    let (read, said) = file("chat.jsonl", &text, BadLines::Skip);
    assert_eq!(read, [Ok("line 1".into()), Ok("line 4".into())]);
    let sentence = "2 of 4 conversations are skipped: line 3 (message 1 is empty), line 5 (not JSON";
    assert!(said.len() == 1 && said[0].starts_with(sentence), "{said:?}");
    let (read, _) = file("chat.jsonl", &format!("{empty}\n{empty}"), BadLines::Skip);
    let error = read[0].as_ref().unwrap_err();
    assert!(read.len() == 1 && error.contains("nothing to learn from: all that is in it is bad"), "{error}");
    let (read, _) = file("chat.json", &format!("[{PLAIN},\n{empty}]"), BadLines::Fail);
    let error = read[1].as_ref().unwrap_err();
    assert!(error.ends_with("chat.json, line 2: element 2 of the list: message 1 is empty"), "{error}");
}

#[test]
fn what_python_writes_is_mended_and_counted() {
    let line =
        |text: &str, score: &str| format!(r#"{{"prompt": "q", "response": "{text}", "score": {score}}}"#);
    let text = [line("hi \\ud83d", "NaN"), line("hi", "1"), line("\\ud83d", "1")].join("\n");
    let (read, said) = file("chat.jsonl", &text, BadLines::Fail);
    assert_eq!(read.len(), 3);
    let expected = [
        "2 of 3 conversations have half of a surrogate pair, read as U+FFFD: line 1, line 3",
        "1 of 3 conversations have NaN or Infinity, read as null: line 1",
        "not used: `score` (2 times)",
    ];
    assert_eq!(said, expected);
}

proptest! {
    #[test]
    fn hostile_lines_never_panic(line in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
        let _ = parse(&line);
        let valid = format!(r#"{{"messages": {PLAIN}}}"#);
        let _ = parse(&valid.as_bytes()[..cut.min(valid.len())]);
    }

    #[test]
    fn odd_objects_never_panic(
        keys in prop::collection::vec("messages|conversations|prompt|output|history|mask|weight|loss_mask|system|tools|x", 0..5),
        values in prop::collection::vec("null|NaN|1|-1|\"\"|\"s\"|\\[\\]|\\[\\[\"a\",\"b\"\\]\\]|\\[\\{\"role\":\"user\",\"content\":\"x\",\"mask\":1\\}\\]", 5),
    ) {
        let fields: Vec<String> = keys.iter().zip(&values).map(|(key, value)| format!("\"{key}\": {value}")).collect();
        let _ = parse(format!("{{{}}}", fields.join(",")).as_bytes());
    }
}
