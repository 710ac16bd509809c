//! Tests that messages are true: which checkpoint was used, commands to run next, and ranges of numbers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::*;

/// Marks a checkpoint as that of a run stopped there.
fn unfinish(checkpoint: &Path) {
    let file = checkpoint.join("train_state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(state["finished"], true);
    state["finished"] = json!(false);
    fs::write(&file, state.to_string()).unwrap();
}

#[track_caller]
fn uses(base: &Path, line: &str, expected: &str) {
    let said = said(nanochat(base, line));
    assert!(said.lines().any(|line| line == expected), "{line}: {said}");
}

#[test]
fn the_last_stage_that_finished_answers_and_is_named() {
    let (base, questions) = with_chat_model();
    let at = base.path();
    let chat = "chat -p x --max-tokens 2";
    let state = |step: usize| {
        fs::read_to_string(at.join(format!("base_checkpoints/m/step_{step:06}/train_state.json")))
    };
    let finished = |step| serde_json::from_str::<Value>(&state(step).unwrap()).unwrap()["finished"].clone();
    assert_eq!([3, 6, 9].map(finished), [json!(false), json!(false), json!(true)]);
    let base_model = "using the base checkpoint of m, step 9; a base model is not trained to chat";
    uses(at, &format!("{chat} --source base"), base_model);
    uses(at, chat, "using the sft checkpoint of m, step 4");

    let data = format!("--data {0} --val-data {0}", questions.display());
    run(at, &format!("{TINY_RL} {data} --num-iterations 2"));
    let rl = "using the rl checkpoint of m, step 2";
    let measure = format!("eval chat --task {} --limit 1 --max-tokens 2", questions.display());
    uses(at, chat, rl);
    uses(at, &measure, rl);
    let mut server = start(at, "serve --port 0");
    let stderr = BufReader::new(server.stderr.take().unwrap());
    let said: Vec<String> = stderr.lines().map(Result::unwrap).take(2).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(said[0], rl);
    assert!(said[1].ends_with(" as nanochat-m"), "{said:?}");

    // A stopped run is not the last finished one, but can be named.
    unfinish(&at.join("chatrl_checkpoints/m/step_000002"));
    uses(at, chat, "using the sft checkpoint of m, step 4");
    uses(at, &measure, "using the sft checkpoint of m, step 4");
    uses(at, &format!("{chat} --source rl"), &format!("{rl}, before the end of its run"));
    uses(at, &format!("{chat} --step 2"), &format!("{rl}, before the end of its run"));
    unfinish(&at.join("chatsft_checkpoints/m/step_000004"));
    uses(at, chat, base_model);
    // If no run has finished, the furthest is used.
    unfinish(&at.join("base_checkpoints/m/step_000009"));
    uses(at, chat, &format!("{rl}, before the end of its run"));
}

#[cfg(unix)]
#[test]
fn what_a_speedrun_tells_to_run_next_runs_word_for_word() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().join("it's a $base");
    let tell = || {
        let mut command = nanochat(temp.path(), "speedrun --preset smoke --base-dir");
        let said = said({
            command.arg(&base).env_remove("NANOCHAT_BASE_DIR");
            command
        });
        let line = said.lines().last().unwrap().to_string();
        line.strip_prefix("now run `").unwrap().strip_suffix('`').unwrap().to_string()
    };
    let answers = |line: &str| {
        let program = assert_cmd::cargo::cargo_bin("nanochat");
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("{line} -p hello --max-tokens 4")]).env("PATH", path);
        let output = shell.env_remove("NANOCHAT_BASE_DIR").stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{line}: {said}");
        said
    };
    let line = tell();
    assert!(!line.contains("--source"), "{line}");
    assert_eq!(answers(&line), "using the rl checkpoint of d2, step 10\n(cut at 4 tokens)\n");

    // Without a tag, the deeper model of another run would be used now.
    copy(&base.join("chatrl_checkpoints/d2"), &base.join("chatrl_checkpoints/d9"));
    let line = tell();
    assert!(line.ends_with("--source rl --model-tag d2"), "{line}");
    assert!(answers(&line).starts_with("using the rl checkpoint of d2, step 10\n"));
}

#[test]
fn a_hint_names_the_base_folder_that_the_user_named() {
    let temp = tempfile::tempdir().unwrap();
    let other = temp.path().join("other base");
    let hints = |line: &str| {
        let mut command = nanochat(temp.path(), line);
        complaint({
            command.arg("--base-dir").arg(&other);
            command
        })
    };
    let folder = format!(" --base-dir '{}'`", other.display());
    for (line, command) in [
        ("chat -p x", "nanochat speedrun"),
        ("train base", "nanochat tok train"),
        ("tok encode x", "nanochat tok train"),
        ("data stats", "nanochat data make"),
        ("eval core", "nanochat data download eval-bundle"),
    ] {
        let sentence = hints(line);
        assert!(sentence.contains(&format!("`{command}{folder}")), "{line}: {sentence}");
        let usual = complaint(nanochat(temp.path(), line));
        assert!(usual.contains(&format!("`{command}`")), "{line}: {usual}");
    }
}

#[test]
fn too_little_for_one_step_says_how_many_epochs_are_enough() {
    let base = with_model();
    let at = base.path();
    let few = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]"#;
    fs::write(at.join("few.jsonl"), format!("{few}\n").repeat(3)).unwrap();
    fs::write(
        at.join("problems.jsonl"),
        "{\"question\": \"1 + 1?\", \"answer\": \"2\", \"grade\": \"number\"}\n",
    )
    .unwrap();
    let file = |name: &str| at.join(name).display().to_string();
    let sft = format!("train sft --data {0} --val-data {0}", file("few.jsonl"));
    refuses(
        at,
        &format!("{sft} --num-epochs 3"),
        &["32 conversations, but 3 times 3", "say --num-epochs 11,"],
    );
    run(at, &format!("{sft} --num-epochs 11"));
    let rl = format!("train rl --max-new-tokens 12 --data {0} --val-data {0}", file("problems.jsonl"));
    refuses(at, &rl, &["16 questions, but 1 times 1 question is less", "say --num-epochs 16,"]);
}

/// Returns the names under a heading of a help text.
fn listed(help: &str, heading: &str) -> Vec<String> {
    let part = help.split(&format!("{heading}:\n")).nth(1).unwrap_or_default();
    let lines = part.lines().take_while(|line| !line.trim().is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

/// Collects every command without subcommands, with its flags that take a value.
fn commands(path: &[String], all: &mut Vec<(Vec<String>, BTreeSet<String>)>) {
    let temp = tempfile::tempdir().unwrap();
    let mut command = nanochat(temp.path(), "");
    let help = output({
        command.args(path).arg("--help");
        command
    });
    let below: Vec<String> = listed(&help, "Commands").into_iter().filter(|name| name != "help").collect();
    for name in &below {
        commands(&[path, std::slice::from_ref(name)].concat(), all);
    }
    let flag = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        let pair = words.windows(2).find(|pair| pair[0].starts_with("--") && pair[1].starts_with('<'));
        pair.map(|pair| pair[0].to_string())
    };
    let flags: BTreeSet<String> = help.lines().filter_map(flag).collect();
    if below.is_empty() || !flags.is_empty() {
        all.push((path.to_vec(), flags));
    }
}

#[test]
fn a_number_that_no_flag_can_take_is_refused_in_a_plain_sentence() {
    let mut all = Vec::new();
    commands(&[], &mut all);
    let temp = tempfile::tempdir().unwrap();
    let mut numbers = 0;
    for (path, flags) in &all {
        // An invalid value is reported before the help is shown; a valid one costs nothing.
        let refusal = |flag: &str, value: &str| {
            let mut command = nanochat(temp.path(), "");
            let output = command.args(path).args([flag, value, "--help"]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(matches!(output.status.code(), Some(0 | 2)), "{path:?} {flag} {value}: {said}");
            (!output.status.success()).then_some(said)
        };
        // --config is read before the other flags.
        for flag in flags.iter().filter(|flag| *flag != "--config") {
            let refusals: Vec<String> = ["99999999999999999999999999", "nan", "-1", ""]
                .iter()
                .filter_map(|value| refusal(flag, value))
                .collect();
            for said in &refusals {
                let one = said.matches("error:").count() == 1 && said.contains(flag.as_str());
                assert!(one && !said.contains("unexpected"), "{path:?} {flag}: {said}");
                for jargon in ["target type", "literal", "invalid digit", "empty string", " is not in "] {
                    assert!(!said.contains(jargon), "{path:?} {flag}: {said}");
                }
            }
            numbers += usize::from(refusals.iter().any(|said| said.contains(" is wanted")));
        }
    }
    assert!(all.len() > 30 && numbers > 150, "{} commands, {numbers} numbers", all.len());
}

#[test]
fn numbers_out_of_range_are_sentences() {
    let (base, questions) = with_chat_model();
    let at = base.path();
    let huge = "99999999999999999999999";
    fs::write(at.join("run.toml"), format!("num_iterations = {huge}\n")).unwrap();
    let of_questions = format!("{TINY_RL} --data {0} --val-data {0} --num-epochs 1e300", questions.display());
    for (line, parts) in [
        ("train rl --temperature 200", ["'200'", "from 0 to 2"]),
        ("train rl --temperature nan", ["'nan'", "from 0 to 2"]),
        ("eval chat --temperature 200", ["'200'", "from 0 to 2"]),
        ("chat -p x --temperature 5", ["'5'", "from 0 to 2"]),
        ("chat -p x --temperature -1", ["'-1'", "--temperature"]),
        ("chat -p x --top-p 0", ["top-p", "above 0"]),
        ("chat -p x --repetition-penalty 1000", ["repetition penalty", "0.01 to 100"]),
        ("chat -p x --max-tokens 0", ["--max-tokens", "from 1"]),
        ("train base --num-iterations 99999999999999999999999", [huge, "--num-iterations"]),
        ("train mid --num-iterations 0", ["'0'", "--num-iterations"]),
        ("train base --target-flops inf", ["'inf'", "--target-flops"]),
        ("train base --target-flops nan", ["'nan'", "--target-flops"]),
        ("train base --target-flops -1", ["'-1'", "--target-flops"]),
        ("train base --depth 1 --target-flops 1e300", ["steps is more than", "--target-flops"]),
        (
            "train base --depth 1 --target-param-data-ratio 1e300",
            ["steps is more than", "--target-param-data-ratio"],
        ),
        ("train base --matrix-lr inf", ["'inf'", "--matrix-lr"]),
        ("train base --matrix-lr -0.1", ["'-0.1'", "--matrix-lr"]),
        ("train base --depth 1 --n-kv-head 0", ["0 key-value heads", "[1]"]),
        (
            "train base --depth 1 --device-batch-size 1000000000 --max-seq-len 16777216",
            ["--total-batch-size", "multiple"],
        ),
        ("train base --gpus 100000", ["'100000'", "from 1 to 64"]),
        ("plan --gpus 100000", ["100000 devices", "at most 256"]),
        ("plan --price nan", ["'nan'", "--price"]),
        ("plan --price -5", ["'-5'", "--price"]),
        ("plan --budget inf", ["'inf'", "--budget"]),
        ("report reset --price -1", ["'-1'", "--price"]),
        ("train rl --examples-per-step 1000000 --num-samples 1000000", ["1000000", "answers a step"]),
        (&of_questions, ["steps", "1000000000"]),
        ("train sft --num-epochs 1e300", ["steps", "1000000000"]),
        ("data mix a=1e-308:x b=1:y", ["a=1e-308:x", "0.000001 to 1000000"]),
        ("train base --data a=inf:x", ["a=inf:x", "0.000001 to 1000000"]),
        ("eval core --rank-timeout 18446744073709551615", ["--rank-timeout", "604800"]),
        ("serve --grace 18446744073709551615", ["--grace", "604800"]),
        ("bench infer --prompt-tokens 18446744073709551615", ["--prompt-tokens", "1000000"]),
        ("bench infer --batch-sizes 1,1000000000", ["--batch-sizes", "1024"]),
    ] {
        refuses(at, line, &parts);
    }
    let file = format!("train base --config {}", at.join("run.toml").display());
    refuses(at, &file, &["run.toml", "line 1"]);
}
