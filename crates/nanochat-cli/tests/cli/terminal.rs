//! Tests the output on a terminal: the ranges in /help, no colours where NO_COLOR is set, and no escape sequences from
//! untrusted text. The terminal is a pseudoterminal; the untrusted text comes from a model whose every token is determined
//! by the last.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nanochat::model::checkpoint::write_folder;
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat::terminal::escape;
use nanochat_tensor::Dtype;
use nanochat_tensor::Tensor;
use nanochat_tokenizer::Tokenizer;
use serde_json::Value;

use crate::common::*;

/// Both ends of a new terminal: the user's and the program's.
fn open_terminal() -> (File, File) {
    let (mut user, mut program) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: two places for descriptors; name, settings and size may be null.
    let opened = unsafe { libc::openpty(&mut user, &mut program, null, null.cast(), null.cast()) };
    assert_eq!(opened, 0);
    // SAFETY: both were opened just now, and nobody else has them.
    unsafe { (File::from_raw_fd(user), File::from_raw_fd(program)) }
}

/// `nanochat LINE` at a terminal.
struct AtTerminal {
    child: Child,
    user: File,
    /// The output so far.
    shown: Arc<Mutex<String>>,
}

impl AtTerminal {
    fn start(base: &Path, line: &str, variables: &[(&str, &str)]) -> AtTerminal {
        let (user, program) = open_terminal();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("nanochat"));
        command.args(line.split_whitespace()).env("NANOCHAT_BASE_DIR", base).env("TERM", "xterm");
        command.env_remove("NO_COLOR").envs(variables.iter().copied());
        let end = || Stdio::from(program.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, screen) = (user.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of a terminal whose program has gone is an error.
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                screen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        AtTerminal { child, user, shown }
    }

    /// Types a line when the prompt is there; what was shown until the next prompt.
    fn says(&mut self, line: &str) -> String {
        self.wait_for_prompt();
        self.shown.lock().unwrap().clear();
        self.user.write_all(format!("{line}\r").as_bytes()).unwrap();
        self.wait_for_prompt()
    }

    fn wait_for_prompt(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let shown = self.shown.lock().unwrap().clone();
            // A prompt with nothing behind it but where the cursor is: the echo of what is typed begins with the prompt, too.
            if let Some((_, last)) = shown.rsplit_once("\n> ")
                && last.ends_with('l')
                && last.chars().all(|c| c.is_control() || "[?;0123456789CKJhl".contains(c))
            {
                return shown;
            }
            assert!(Instant::now() < deadline, "no prompt in {shown:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that was shown, when the program has ended.
    fn ended(mut self) -> String {
        assert!(self.child.wait().unwrap().success());
        let mut last = usize::MAX;
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if shown.len() == last {
                return shown;
            }
            last = shown.len();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop)); // it may have ended
    }
}

/// A model that, asked anything, multiplies with its tool and then says `text`: all of whose characters differ.
fn scripted(base: &Path, text: &str) -> PathBuf {
    let tokenizer = Tokenizer::from_file(&base.join("tokenizer/tokenizer.json")).unwrap();
    let special = |name: &str| tokenizer.special(&format!("<|{name}|>")).unwrap();
    let letters = |text: &str| -> Vec<u32> {
        text.chars().flat_map(|c| tokenizer.encode(c.encode_utf8(&mut [0; 4]))).collect()
    };
    let call = [
        vec![special("assistant_start"), special("python_start")],
        letters("7*6"),
        vec![special("python_end")],
    ];
    let answer = [vec![special("output_end")], letters(text), vec![special("assistant_end")]];
    let config = GptConfig::from_depth(1, tokenizer.vocab_size(), 64).unwrap();
    let (v, c) = (config.vocab_size, config.n_embd);
    // Blocks of a new model add nothing: what follows a token is a table, a dimension for each entry.
    let (mut wte, mut lm_head) = (vec![0.0; v * c], vec![0.0; v * c]);
    let pairs = [call.concat(), answer.concat()];
    for (dimension, pair) in pairs.iter().flat_map(|tokens| tokens.windows(2)).enumerate() {
        wte[pair[0] as usize * c + dimension] = 1.0;
        lm_head[pair[1] as usize * c + dimension] = 10.0;
    }
    let mut model = Gpt::init(config, 0);
    for (name, _, weight) in model.params_mut() {
        match name.as_str() {
            name if name.contains("wte") => *weight = Tensor::new(wte.clone(), &[v, c]),
            name if name.contains("lm_head") => *weight = Tensor::new(lm_head.clone(), &[v, c]),
            _ => {}
        }
    }
    let folder = base.join("scripted");
    write_folder(&folder, &model, &tokenizer, Dtype::F32).unwrap();
    folder
}

#[test]
fn an_answer_is_dimmed_and_escaped_at_a_terminal_and_exact_in_a_pipe() {
    let base = prepared();
    let folder = scripted(base.path(), "\u{1b}[31m\t\n\rA");
    let line = format!("chat -m {} -p hello --temperature 0", folder.display());
    let shown = |variables: &[(&str, &str)]| AtTerminal::start(base.path(), &line, variables).ended();
    let coloured = "\u{1b}[2m[7*6\u{1b}[0m\u{1b}[2m = 42\u{1b}[2m]\u{1b}[0m \\u{1b}[31m\t\r\n\\rA\r\n";
    let plain = "[7*6 = 42] \\u{1b}[31m\t\r\n\\rA\r\n";
    assert_eq!(shown(&[]), coloured);
    assert_eq!(shown(&[("NO_COLOR", "")]), coloured);
    assert_eq!(shown(&[("NO_COLOR", "1")]), plain);
    assert_eq!(output(nanochat(base.path(), &line)), "\u{1b}[31m\t\n\rA\n");
    // Decoded text, likewise.
    let decode = format!("tok decode --tokenizer {} 27 65", folder.display());
    assert_eq!(AtTerminal::start(base.path(), &decode, &[]).ended(), "\\u{1b}A\r\n");
    assert_eq!(output(nanochat(base.path(), &decode)), "\u{1b}A");
}

#[test]
fn slash_commands_take_what_help_says_and_nothing_else() {
    let base = prepared();
    let folder = scripted(base.path(), "A");
    let mut chat =
        AtTerminal::start(base.path(), &format!("chat -m {}", folder.display()), &[("NO_COLOR", "1")]);
    let help = chat.says("/help");
    for (command, range, good, bad) in [
        ("temperature", "0 to 2", ["0", "2"], ["-0.1", "5"]),
        ("topk", "1 to 1000000000; 0: all", ["0", "1000000000"], ["-1", "1000000001"]),
        ("topp", "above 0 to 1", ["0.01", "1"], ["0", "1.1"]),
        ("penalty", "0.01 to 100", ["0.01", "100"], ["0", "101"]),
        ("seed", "0 to 18446744073709551615", ["0", "18446744073709551615"], ["-1", "18446744073709551616"]),
        ("max", "1 to 1000000", ["1", "1000000"], ["0", "1000001"]),
    ] {
        let told = help.lines().find(|line| line.contains(&format!("/{command} "))).unwrap();
        assert!(told.contains(range), "{told}");
        for value in good {
            assert!(chat.says(&format!("/{command} {value}")).contains(&format!("{command} is {value}")));
        }
        for value in bad.into_iter().chain(["nan", "x", ""]) {
            let shown = chat.says(&format!("/{command} {value}"));
            assert!(!shown.contains(&format!("{command} is ")), "{shown}");
            assert!(shown.contains(" is wanted") || shown.contains(" must be "), "{shown}");
        }
    }
    for command in ["/temperature 0", "/penalty 1", "/topp 1"] {
        chat.says(command);
    }
    assert!(chat.says("hello").contains("[7*6 = 42] A"));
}

#[test]
fn a_chat_that_grew_too_long_counts_what_it_drops() {
    let base = prepared();
    let folder = scripted(base.path(), "A");
    let line = format!("chat -m {} --temperature 0", folder.display());
    let mut chat = AtTerminal::start(base.path(), &line, &[("NO_COLOR", "1")]);
    let shown: Vec<String> = (0..6).map(|_| chat.says("hello")).collect();
    assert!(!shown[0].contains("dropped"), "{shown:?}");
    let told = "(1 exchange at the beginning was dropped: the model sees 64 tokens)";
    assert!(shown[5].contains(told), "{shown:?}");
}

/// Everything printed for people is lines of harmless characters.
#[track_caller]
fn is_harmless(base: &Path, arguments: &[&str]) -> String {
    let mut command = nanochat(base, "");
    let output = command.args(arguments).output().unwrap();
    let all = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let harmful = |c: char| escape::is_control(c) && !matches!(c, '\n' | '\t');
    assert!(!all.contains(harmful), "{arguments:?}: {all:?}");
    assert!(
        all.contains("\\u{1b}") || all.contains("\\u{202e}"),
        "nothing was escaped: {arguments:?}: {all:?}"
    );
    all
}

#[test]
fn names_of_strangers_do_not_drive_the_terminal() {
    let base = prepared();
    let at = base.path();
    let folder = scripted(at, "A\u{1b}");
    let name = "\u{1b}[31m\u{9b}2J\u{202e}";
    let path = |name: &str| at.join(name).display().to_string();
    let model = folder.display().to_string();

    // A special token's name.
    let file = folder.join("tokenizer.json");
    let whole = fs::read(&file).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&whole).unwrap();
    tokenizer["added_tokens"][0]["content"] = Value::from(format!("<|bos|>\n{name}"));
    fs::write(path("tokenizer.json"), tokenizer.to_string()).unwrap();
    let special = path("tokenizer.json");
    is_harmless(at, &["tok", "show", "--tokenizer", &special]);

    // Names of files that are missing, in sentences of one line.
    let missing = path(&format!("no\n{name}"));
    for arguments in [
        &["chat", "-p", "x", "-m", &missing][..],
        &["tok", "show", "--tokenizer", &missing],
        &["data", "ingest", &missing],
        &["data", "mix", &format!("a=1:{missing}"), "--out", &path("mixed")],
        &["train", "base", "--data-dir", &missing],
        &["eval", "chat", "-m", &model, "--task", &missing],
        &["chat", "-p", "x", "--model-tag", name],
        &[name],
        &["chat", name],
        &["plan", &format!("--{name}")],
        &["plan", "--depth", name],
        &["download", "model", name, "--mirror", "http://127.0.0.1:9"],
    ] {
        let said = is_harmless(at, arguments);
        assert_eq!(said.matches("error:").count(), 1, "{said}");
    }

    // Fields of data, and a file's own name.
    let jsonl = path(&format!("x{name}.jsonl"));
    fs::write(&jsonl, format!("{{{}: 1}}\n", serde_json::to_string(name).unwrap())).unwrap();
    is_harmless(at, &["data", "ingest", &jsonl, "--out", &path("out")]);
    let question = serde_json::json!({"question": name, "answer": name, "grade": "contains"});
    fs::write(&jsonl, format!("{question}\n")).unwrap();
    is_harmless(at, &["eval", "chat", "-m", &model, "--task", &jsonl, "--show", "1", "--max-tokens", "9"]);
    let turns = serde_json::json!([{"role": "user", "content": name}, {"role": "assistant", "content": "a"}]);
    fs::write(&jsonl, format!("{turns}\n")).unwrap();
    is_harmless(at, &["tok", "render", &jsonl]);

    // Keys of a model's files.
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen('{', &format!("{{{}: 1, ", serde_json::to_string(name).unwrap()), 1))
        .unwrap();
    is_harmless(at, &["chat", "-p", "x", "-m", &model]);
    fs::write(&config, text).unwrap();
    let weights = folder.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let header = header.replacen("lm_head", "lm_\\u001b[31m", 1).into_bytes();
    let renamed = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat();
    fs::write(&weights, renamed).unwrap();
    let said = nanochat(at, &format!("chat -p x -m {model}")).output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.starts_with("error:") && !said.contains('\u{1b}'), "{said:?}");
}
