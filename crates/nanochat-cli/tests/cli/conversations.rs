//! Tests conversations in other programs' formats: what they say about training is applied, reported or refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::*;

/// Runs `tok render` on a file with this text and returns its stdout and stderr.
fn render(base: &Path, name: &str, text: &str, flags: &str) -> (String, String) {
    let path = base.join(name);
    fs::write(&path, text).unwrap();
    let line = format!("tok render {} --limit 100 {flags}", path.display());
    let output = nanochat(base, &line).assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Returns the trained parts, without their end tokens.
fn trained(rendered: &str) -> Vec<String> {
    let parts = rendered.split('⟦').skip(1).map(|rest| rest.split('⟧').next().unwrap());
    parts.map(|part| part.replace("<|assistant_end|>", "")).collect()
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| value.to_string() + "\n").collect()
}

fn pair(question: &str, answer: &str) -> Value {
    json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
}

/// Returns the losses and stderr of `train STAGE` on a file.
fn losses(base: &Path, name: &str, text: &str, command: &str) -> (Vec<f64>, String) {
    let path = base.join(name);
    fs::write(&path, text).unwrap();
    let said = said(nanochat(base, &format!("{command} --data {} --overwrite", path.display())));
    let stage = if command.contains("train mid") { "mid_checkpoints" } else { "chatsft_checkpoints" };
    let losses =
        metrics(&base.join(stage).join("m")).iter().filter_map(|line| line["loss"].as_f64()).collect();
    (losses, said)
}

#[test]
fn a_system_message_beside_the_list_is_said_first() {
    let base = prepared();
    for (list, role, text) in [("messages", "role", "content"), ("conversations", "from", "value")] {
        let turn = |who: &str, what: &str| json!({role: who, text: what});
        let line = json!({"system": "Answer in rhyme.", list: [turn("user", "Hi"), turn("assistant", "Hi, my, oh my.")],
            "tools": ""});
        let (printed, said) = render(base.path(), "system.jsonl", &lines(&[line]), "");
        assert!(printed.contains("<|user_start|>Answer in rhyme.\n\nHi<|user_end|>"), "{printed}");
        assert_eq!((trained(&printed), said.as_str()), (vec!["Hi, my, oh my.".to_string()], ""));
    }
    let path = base.path().join("tools.jsonl");
    fs::write(
        &path,
        lines(&[json!({"messages": pair("q", "a")["conversations"], "tools": [{"name": "f"}]})]),
    )
    .unwrap();
    let line = format!("tok render {}", path.display());
    refuses(base.path(), &line, &["tools.jsonl, line 1: `tools` is not used", "calculator"]);
}

#[test]
fn answers_of_no_weight_are_context() {
    let base = prepared();
    let weight = json!({"messages": [{"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "WRONGANSWER five", "weight": 0}, {"role": "user", "content": "Check it."},
        {"role": "assistant", "content": "It is four.", "weight": 1}]});
    let (printed, said) = render(base.path(), "weight0.jsonl", &lines(&[weight]), "");
    assert!(
        printed.contains("<|assistant_start|>WRONGANSWER five<|assistant_end|><|user_start|>"),
        "{printed}"
    );
    assert_eq!((trained(&printed), said.as_str()), (vec!["It is four.".to_string()], ""));
    let loss = json!({"conversations": [{"from": "human", "loss": null, "value": "Begin."},
        {"from": "gpt", "loss": false, "value": "OK."}, {"from": "human", "value": "Go"},
        {"from": "gpt", "loss": true, "value": "Going."}], "weight": 0.5});
    let (printed, _) = render(base.path(), "loss.jsonl", &lines(&[loss]), "");
    assert_eq!(trained(&printed), ["Going."]);
    assert!(printed.contains("trained, weight 0.5\n"), "{printed}");
}

#[test]
fn a_list_as_a_file_is_read_however_it_is_written() {
    let base = with_model();
    let list = vec![pair("你好", "你好！"), pair("Hi \"[", "yo]"), pair("q", "a")];
    let expected = render(base.path(), "chats.jsonl", &lines(&list), "--ids").0;
    assert_eq!(expected.lines().count(), 3);
    let one = serde_json::to_string(&list).unwrap();
    let pretty = serde_json::to_string_pretty(&list).unwrap();
    let texts: String =
        list.iter().map(|value| serde_json::to_string_pretty(value).unwrap() + "\n").collect();
    for (name, text) in [("chats.json", &one), ("pretty.jsonl", &pretty), ("texts.json", &texts)] {
        assert_eq!(render(base.path(), name, text, "--ids").0, expected, "{name}");
    }
    let sft = "train sft --device-batch-size 3 --target-examples-per-step 3 --num-iterations 2";
    let [by_line, by_list] = [("a.jsonl", lines(&list)), ("b.json", pretty)]
        .map(|(name, text)| losses(base.path(), name, &text, sft).0);
    assert!(by_line.len() == 2 && by_line == by_list, "{by_line:?} {by_list:?}");

    let path = base.path().join("cut.json");
    fs::write(&path, &one[..one.len() - 1]).unwrap();
    for flags in ["", "--bad-lines skip"] {
        let line = format!("{TINY_SFT} --data {} {flags}", path.display());
        refuses(base.path(), &line, &["cut.json, line 1", "has no end"]);
    }
}

#[test]
fn weights_make_the_loss_a_weighted_mean() {
    let base = with_model();
    let with = |mut value: Value, key: &str, weight: f64| {
        value[key] = json!(weight);
        value
    };
    let (a, b) = (pair("q", "a short one"), pair("r", "and this is another"));
    let run = |name: &str, values: &[Value], stage: &str| {
        let n = values.len();
        let rows = match stage {
            "sft" => format!("--device-batch-size {n} --target-examples-per-step {n}"),
            _ => "--eval-tokens 256".into(),
        };
        losses(
            base.path(),
            name,
            &lines(values),
            &format!("train {stage} {rows} --num-iterations 2 --seed 1"),
        )
        .0
    };
    // Twice the weight has the same effect as repeating the conversation.
    let twice = run("twice.jsonl", &[a.clone(), a.clone(), b.clone()], "sft");
    let weighed = run("weighed.jsonl", &[with(a.clone(), "weight", 2.0), b.clone()], "sft");
    assert!((twice[0] - weighed[0]).abs() < 1e-5 * twice[0], "{twice:?} {weighed:?}");
    let plain = run("plain.jsonl", &[a.clone(), b.clone()], "sft");
    assert!((plain[0] - weighed[0]).abs() > 1e-4 * plain[0], "{plain:?} {weighed:?}");
    // A weight that all conversations share changes nothing.
    for stage in ["sft", "mid"] {
        let plain = run("plain.jsonl", &[a.clone(), b.clone()], stage);
        let half = [a.clone(), b.clone()].map(|value| with(value, "weight", 0.5));
        assert_eq!(run("half.jsonl", &half, stage), plain, "{stage}");
    }
}

#[test]
fn what_weighs_nothing_is_left_out_and_never_nan() {
    let base = with_model();
    let mut silent = pair("q", "never learned");
    silent["conversations"][1]["weight"] = json!(0);
    // A context longer than a step of mid-training, which is 128 tokens here.
    let mut context = pair("q", &"context ".repeat(200));
    context["conversations"][1]["loss"] = json!(false);
    let rest = pair("and", "this");
    for message in rest["conversations"].as_array().unwrap() {
        context["conversations"].as_array_mut().unwrap().push(message.clone());
    }
    let text = lines(&[silent.clone(), context, rest]);
    for stage in ["train sft --device-batch-size 1 --target-examples-per-step 1", TINY_MID] {
        let (losses, said) =
            losses(base.path(), "weights.jsonl", &text, &format!("{stage} --num-iterations 9"));
        assert!(losses.len() == 9 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        let sentence = "weights.jsonl: 1 of 3 conversations are left out because their weights are 0: line 1";
        assert!(said.contains(sentence), "{said}");
    }
    let path = base.path().join("silent.jsonl");
    fs::write(&path, lines(&[silent])).unwrap();
    let line = format!("{TINY_SFT} --data {}", path.display());
    refuses(base.path(), &line, &["silent.jsonl has nothing to learn from", "weights", "line 1"]);
}

#[test]
fn bad_lines_are_refused_or_skipped_and_counted() {
    let base = with_model();
    let good = pair("q", "a").to_string();
    let negative = json!({"prompt": "q", "completion": "a", "weight": -1}).to_string();
    let bad = ["{\"messages\": [", "{\"text\": \"x\"}", &negative, "[]"];
    let text = [&[good.as_str()], &bad[..], &[good.as_str()]].concat().join("\n");
    let path = base.path().join("chats.jsonl");
    fs::write(&path, &text).unwrap();
    let sentence = "chats.jsonl: 4 of 6 conversations are skipped: line 2 (not JSON (EOF while parsing a list at line 1 column 14)), \
        line 3 (not a conversation";
    for command in [format!("{TINY_SFT} --num-iterations 1 --data"), "tok render --limit 9".to_string()] {
        let line = format!("{command} {}", path.display());
        refuses_with_output(base.path(), &line, "chats.jsonl, line 2: not JSON");
        let said = said(nanochat(base.path(), &format!("{line} --bad-lines skip")));
        assert!(said.contains(sentence) && said.contains("line 4 (`weight` must be 0"), "{said}");
    }
    fs::write(&path, bad.join("\n")).unwrap();
    let line = format!("{TINY_SFT} --bad-lines skip --data {}", path.display());
    refuses(
        base.path(),
        &line,
        &["chats.jsonl has nothing to learn from: all that is in it is bad", "line 1"],
    );

    let (chat, questions) = with_chat_model();
    let text = fs::read_to_string(&questions).unwrap() + "{\"question\": \"no answer\"}\n";
    fs::write(&questions, text).unwrap();
    let line = format!("eval chat --max-tokens 4 --task {}", questions.display());
    refuses(chat.path(), &line, &["questions.jsonl, line 21: no `answer`"]);
    let said = said(nanochat(chat.path(), &format!("{line} --bad-lines skip")));
    assert!(said.contains("1 of 21 conversations are skipped: line 21 (no `answer`"), "{said}");
}

/// Asserts that a command fails with an error that contains `part`. It may have printed the lines before the bad one.
fn refuses_with_output(base: &Path, line: &str, part: &str) {
    let failed = nanochat(base, line).assert().failure().get_output().clone();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.lines().any(|line| line.starts_with("error:") && line.contains(part)), "{said}");
}

#[test]
fn what_python_writes_is_read_and_what_is_not_used_is_told_once() {
    let base = with_model();
    let text = "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},\
        {\"role\":\"assistant\",\"content\":\"hi \\ud83d\",\"reasoning_content\":\"hm\"}],\"score\":NaN}\n\
        {\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},{\"role\":\"assistant\",\"content\":\"hi\"}],\"score\":0.5,\
        \"colour\":\"red\"}\n";
    let expected = [
        "chat.jsonl: 1 of 2 conversations have half of a surrogate pair, read as U+FFFD: line 1",
        "chat.jsonl: 1 of 2 conversations have NaN or Infinity, read as null: line 1",
        "chat.jsonl: not used: `reasoning_content` of messages (once), `score` (once)",
        "chat.jsonl: unknown and not used: `colour` (once)",
    ];
    let (printed, said) = render(base.path(), "chat.jsonl", text, "");
    assert_eq!(trained(&printed), ["hi \u{fffd}", "hi"]);
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let (_, said) = losses(
        base.path(),
        "chat.jsonl",
        text,
        "train sft --device-batch-size 1 --target-examples-per-step 1",
    );
    for sentence in expected {
        assert_eq!(said.matches(sentence).count(), 1, "{said}");
    }
}
