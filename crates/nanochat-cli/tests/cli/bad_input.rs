//! Tests that every mistake and every damaged file gives one sentence that names it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;

fn file(base: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = base.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Makes a base folder with three training shards and one for validation.
fn with_shards() -> tempfile::TempDir {
    let base = prepared();
    let text: String = (0..300).map(|i| format!("line {i} of a text about nothing\n")).collect();
    let text = file(base.path(), "text.txt", text);
    let out = base.path().join("shards");
    let ingest = format!(
        "data ingest {} --out {} --split-lines --chars-per-shard 4000 --val-share 0.1",
        text.display(),
        out.display()
    );
    run(base.path(), &ingest);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 4);
    base
}

#[test]
fn damaged_shards_are_named_and_refused_or_skipped() {
    let base = with_shards();
    let shards = base.path().join("shards");
    let line =
        |tag: &str| format!("{TINY} --num-iterations 2 --data-dir {} --model-tag {tag}", shards.display());
    let bad = shards.join("shard_00001.parquet");
    let whole = fs::read(&bad).unwrap();
    let mut flipped = whole.clone();
    flipped[60..90].fill(0xAA); // damages the text's page, not the footer
    let truncated = whole[..whole.len() / 2].to_vec();
    for (tag, bytes) in [("cut", truncated), ("flip", flipped), ("none", vec![]), ("text", b"hello".to_vec())]
    {
        fs::write(&bad, bytes).unwrap();
        // 40 steps of 128 tokens reach the second shard.
        let long = line(tag).replace("--num-iterations 2", "--num-iterations 40");
        refuses(base.path(), &long, &["shard_00001.parquet", "--bad-shards skip"]);
        let _ = fs::remove_dir_all(base.path().join("base_checkpoints").join(tag));
        let warned = said(nanochat(base.path(), &format!("{long} --bad-shards skip")));
        assert_eq!(warned.matches("warning: skipping shard").count(), 1, "{warned}");
        assert!(warned.contains("shard_00001.parquet"), "{warned}");
    }
    // A shard may be missing from the start, but not between two sessions of a run.
    fs::remove_file(&bad).unwrap();
    run(base.path(), &line("gone"));
    let position = base.path().join("base_checkpoints/gone/step_000002/train_state.json");
    let state = fs::read_to_string(&position).unwrap().replace("shard_00000", "shard_00001");
    fs::write(&position, state).unwrap();
    refuses(base.path(), &format!("{} --resume", line("gone")), &["shard_00001.parquet", "does not have"]);
    // Another validation shard would give other losses.
    truncate(&shards.join("shard_00003.parquet"));
    let parts = ["validation shard", "shard_00003.parquet"];
    refuses(base.path(), &format!("{} --bad-shards skip", line("val")), &parts);
}

#[test]
fn folders_without_text_are_refused() {
    let base = prepared();
    let empty = base.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let at = empty.display();
    refuses(base.path(), &format!("{TINY} --data-dir {at}"), &["empty", "nanochat data make"]);
    refuses(base.path(), &format!("tok train --data {at}"), &["empty", "nanochat data make"]);
    refuses(base.path(), &format!("data ingest {at} --out {at}/out"), &["nothing to read", "empty"]);
    let blank = file(&empty, "blank.txt", "\u{feff} \n\0\0\u{3000}");
    let ingest = format!("data ingest {} --out {at}/out", blank.display());
    refuses(base.path(), &ingest, &["0 training and 0 validation documents"]);
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 1, "a failed ingest leaves nothing");
    refuses(base.path(), "data make", &["base_data already exists"]);
    refuses(base.path(), "data make --documents 0", &["--documents"]);
    refuses(base.path(), &format!("{TINY} --data-dir no-such-folder"), &["no-such-folder", "data make"]);
    let missing = ["no-such-folder", "No such file"];
    refuses(base.path(), "data ingest no-such-folder", &missing);
    refuses(base.path(), &format!("{TINY} --val-data zh=no-such-folder"), &missing);
    refuses(base.path(), &format!("{TINY} --val-data no-such-folder"), &["NAME=PATH"]);
    assert!(!base.path().join("base_checkpoints").exists(), "nothing was begun");
}

#[test]
fn ingest_cleans_what_it_can_and_says_so() {
    let base = tempfile::tempdir().unwrap();
    let text = file(base.path(), "mixed.txt", b"good one\nwith \0 NUL\nlatin \xe9\n\xb0\xa1 GBK\ngood two\n");
    let ingest = |path: &Path, more: &str| format!("data ingest {} {more}", path.display());
    let made = nanochat(base.path(), &ingest(&text, "--split-lines --bad-lines skip"))
        .assert()
        .success()
        .get_output()
        .clone();
    let (stdout, stderr) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(stdout.contains("2 training and 1 validation documents"), "{stdout}");
    for part in ["removed 1 NUL", "left out 2 documents that are not UTF-8", "mixed.txt, lines 3, 4"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    for (name, bytes, parts) in [
        ("a.jsonl", "{\"text\":\"x\"}\n{\"text\":\n", ["a.jsonl, line 2", "not JSON"]),
        ("b.jsonl", "\n{\"body\":\"x\"}\n", ["b.jsonl, line 2", "--field: body"]),
        ("c.jsonl", "{\"text\":7}\n", ["c.jsonl, line 1", "not a string"]),
        ("d.jsonl", "{\"messages\":[]}\n", ["d.jsonl, line 1", "conversation"]),
        ("e.txt.gz", "this is no gzip file", ["e.txt.gz", "gzip"]),
        ("f.txt.zst", "this is no zstd file", ["f.txt.zst", ""]),
        ("g.parquet", "PAR1", ["g.parquet", "cannot be read"]),
    ] {
        let path = file(base.path(), name, bytes);
        let out = base.path().join("out");
        refuses(base.path(), &ingest(&path, &format!("--out {}", out.display())), &parts);
        assert!(!out.exists() && !base.path().join("out.partial").exists());
    }
}

#[test]
fn mixtures_are_refused_by_file_and_line() {
    let base = with_model();
    for (text, parts) in [
        ("[[train]]\ndata = \"a.jsonl\"\nrepaet = 2\n", ["mix.toml", "line 3"]),
        ("[[train]]\ndata = \"a.jsonl\"\n", ["a.jsonl", "No such file"]),
        ("[[train]]\ndata = \"no-task\"\n", ["no-task", "no task"]),
        ("", ["mix.toml", "no conversations"]),
    ] {
        let path = file(base.path(), "mix.toml", text);
        refuses(base.path(), &format!("train mid --mixture {}", path.display()), &parts);
    }
    refuses(base.path(), "train mid --mixture nowhere", &["nowhere", "world, nanochat"]);
    refuses(base.path(), "train mid --data zh-arithmetic,limit=all", &["limit=all", "limit=N"]);
    refuses(base.path(), "train mid --mixture nanochat", &["SmolTalk", "task_data"]);
    refuses(base.path(), "train rl", &["no model", "nanochat train sft"]);
    assert!(!base.path().join("mid_checkpoints").exists(), "nothing was begun");
}

#[test]
fn conversations_are_refused_by_file_and_line() {
    let base = with_model();
    let good = r#"[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#;
    for (bad, why) in [
        (r#"[{"role":"robot","content":"q"}]"#, "unknown role \"robot\""),
        (r#"[{"role":"assistant","content":"a"}]"#, "user's turn"),
        (r#"[{"role":"user","content":"q"},{"role":"user","content":"q"}]"#, "assistant's turn"),
        (r#"[{"role":"user","content":"q"}]"#, "does not end with the assistant"),
        (r#"{"text":"no conversation"}"#, "not a conversation"),
        (r#"[{"role":"user","#, "not JSON"),
    ] {
        let path = file(base.path(), "chats.jsonl", format!("{good}\n{good}\n{bad}\n"));
        refuses(base.path(), &format!("{TINY_SFT} --data {}", path.display()), &["chats.jsonl, line 3", why]);
    }
    let path = file(base.path(), "latin.jsonl", b"\n[{\"role\":\"user\",\"content\":\"caf\xe9\"}]\n");
    refuses(base.path(), &format!("{TINY_SFT} --data {}", path.display()), &["latin.jsonl, line 2", "UTF-8"]);
    refuses(base.path(), &format!("{TINY_SFT} --data nowhere.jsonl"), &["nowhere.jsonl", "No such file"]);
    assert!(!base.path().join("chatsft_checkpoints").exists(), "nothing was begun");
    let path = file(base.path(), "none.jsonl", "\n");
    refuses(
        base.path(),
        &format!("{TINY_SFT} --data {}", path.display()),
        &["none.jsonl", "nothing is left of its 0"],
    );
}

#[test]
fn sizes_that_make_no_model_name_those_that_do() {
    let base = prepared();
    for (line, parts) in [
        ("tok train --vocab-size 264", ["264", "at least 265"]),
        ("train base --depth 5", ["depth 5", "4 and 6"]),
        ("tok train --vocab-size 99999999999", ["99999999999", "at most"]),
        ("train base --depth 100000", ["depth", "100000"]),
        ("train base --depth 1000", ["depth 1000", "GB of memory"]),
        ("train base --depth 1 --max-seq-len 999999999999", ["--max-seq-len", "999999999999"]),
        ("train base --depth 1 --model-tag ../x", ["../x", "without slashes"]),
        ("train base --depth 0", ["depth", "at least 1"]),
        ("train base --depth 4 --n-kv-head 3", ["3 key-value heads", "[1, 2]"]),
        ("train base --depth 1 --max-seq-len 0", ["sequence length", "at least 1"]),
        ("train base --depth 1 --device-batch-size 0", ["batch", "at least 1"]),
        ("train base --depth 1 --total-batch-size 5000", ["5000", "4096 and 8192"]),
        ("train base --depth 1 --num-iterations 0", ["--num-iterations", "from 1 to"]),
        ("train base --depth 1 --target-flops 1", ["less than one step", "--target-flops"]),
        ("train base --depth 1 --num-iterations many", ["many", "--num-iterations"]),
        ("train base --depth 1 --resume --overwrite", ["--resume", "--overwrite"]),
        ("train base --no-such-flag 1", ["--no-such-flag", "unexpected"]),
        ("train midway", ["midway", "unrecognized"]),
        ("train base --config no-such.toml", ["no-such.toml", "No such file"]),
        ("plan --depth 5", ["depth 5", "4 and 6"]),
    ] {
        refuses(base.path(), line, &parts);
    }
    assert!(!base.path().join("base_checkpoints").exists(), "nothing was begun");
    let base = with_model();
    refuses(base.path(), "train sft --device-batch-size 3", &["32", "multiple of --device-batch-size 3"]);
    refuses(base.path(), "train sft --device-batch-size 0", &["32", "--device-batch-size 0"]);
}

#[test]
fn what_is_missing_is_named_with_the_command_that_makes_it() {
    let empty = tempfile::tempdir().unwrap();
    for (line, parts) in [
        ("train base --depth 1", ["tokenizer", "nanochat tok train"]),
        ("train sft", ["no model", "nanochat train base"]),
        ("tok train", ["base_data", "nanochat data make"]),
        ("chat -p x", ["no model", "nanochat speedrun"]),
        ("eval bpb", ["no model", "nanochat train base"]),
        ("eval chat", ["no model", "nanochat train base"]),
        ("export out", ["no model", "nanochat train base"]),
        ("report", ["nothing to report", "run a stage"]),
        ("chat -m no-such-folder -p x", ["no-such-folder", "config.json"]),
    ] {
        refuses(empty.path(), line, &parts);
    }
    let base = with_model();
    refuses(base.path(), "chat -p x --model-tag other", &["model other", "there are m"]);
    refuses(base.path(), "chat -p x --step 4", &["step 4", "[3, 6, 9]"]);
    refuses(base.path(), "chat -p x --temperature -1", &["-1", ""]);
    refuses(base.path(), "eval chat --task nowhere.jsonl", &["nowhere.jsonl", "No such file"]);
    let long = "word ".repeat(200);
    let mut command = nanochat(base.path(), "chat --source base --max-tokens 4");
    command.write_stdin(long);
    command.assert().success();
}

#[test]
fn damaged_models_are_named() {
    let base = with_model();
    let folder = base.path().join("base_checkpoints/m/step_000009");
    let whole = tempfile::tempdir().unwrap();
    copy(&folder, whole.path());
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        for bytes in [None, Some(""), Some("{}"), Some("\u{1}\0\0\0\0\0\0\u{7f}{}")] {
            match bytes {
                None => truncate(&folder.join(name)),
                Some(bytes) => drop(file(&folder, name, bytes)),
            }
            let path = folder.join(name).display().to_string();
            for line in ["chat -p x", "eval bpb --eval-tokens 64", "export new", "train sft"] {
                refuses(base.path(), line, &[&path]);
            }
        }
        fs::copy(whole.path().join(name), folder.join(name)).unwrap();
    }
    // A valid tokenizer, but another model's.
    run(base.path(), "tok train --vocab-size 300");
    fs::copy(base.path().join("tokenizer/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    refuses(base.path(), "chat -p x", &["vocabulary of 320", "tokenizer has 300"]);
    refuses(base.path(), "train sft", &["vocabulary of 320", "tokenizer has 300"]);
}

#[test]
fn a_base_folder_that_is_a_file_is_refused_by_every_command() {
    let temp = tempfile::tempdir().unwrap();
    let base = file(temp.path(), "base", "a file");
    let text = file(temp.path(), "a.txt", "a\nb\n");
    let ingest = format!("data ingest {} --split-lines", text.display());
    for line in [&ingest, "speedrun", "data make", "tok train", "report", "report reset", TINY, "chat -p x"] {
        refuses(&base, line, &[base.to_str().unwrap()]);
    }
    assert_eq!(fs::read(&base).unwrap(), b"a file");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_no_panic() {
    let base = with_model();
    for line in ["plan --json", "plan", "eval bpb --eval-tokens 64", "tok show", "tok encode x", "chat -p x"]
    {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("nanochat"));
        command.args(line.split(' ')).env("NANOCHAT_BASE_DIR", base.path()).stdout(full);
        let ended = command.output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains("No space left") && !said.contains("panicked"), "{line}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let base = tempfile::tempdir().unwrap();
    let mut command = nanochat(base.path(), "chat -p");
    command.arg(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    assert!(complaint(command).contains("caf\\xE9"));
    // Flags for paths, which may be any bytes.
    for flag in ["--data", "--val-data", "--data-dir", "--model-tag"] {
        let mut command = nanochat(base.path(), "train base");
        command.arg("--base-dir").arg(base.path().join(std::ffi::OsStr::from_bytes(b"d\xff")));
        command.arg(flag).arg(std::ffi::OsStr::from_bytes(b"zh=1:caf\xe9"));
        assert!(complaint(command).contains("the argument \"zh=1:caf\\xE9\" is not UTF-8"), "{flag}");
    }
}

#[test]
fn amounts_beyond_all_reason_are_sentences() {
    let base = prepared();
    for (line, part) in [
        ("plan --depth 20 --gpus 100000", "at most 256 can share it"),
        ("plan --budget inf", "a number of dollars from 0 on is wanted"),
        ("plan --price inf", "a number of dollars from 0 on is wanted"),
        ("plan --mfu 1e-300", "--mfu must be from 0.0001 to 1"),
        ("--gpus 100000 train base", "a whole number from 1 to 64 is wanted"),
        ("train base --target-flops inf", "a number above 0 is wanted"),
        ("train base --target-flops 1e300", "more than 1000000000"),
        ("train base --target-param-data-ratio nan", "a number above 0 is wanted"),
        ("data mix a=1e-308:x b=1:y", "the weight must be from 0.000001 to 1000000"),
        ("data mix a=inf:x", "the weight must be from 0.000001 to 1000000"),
        ("train base --data a=1e308:x", "the weight must be from 0.000001 to 1000000"),
    ] {
        refuses(base.path(), line, &[part]);
    }
}
