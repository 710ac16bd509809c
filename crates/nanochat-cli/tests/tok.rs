//! Tests the `nanochat tok` binary: an imported tokenizer, and one sentence for every mistake.

use std::path::Path;

use assert_cmd::Command;
use nanochat::text::dataset::{ShardWriter, Split};

fn tok(base_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("nanochat").unwrap();
    command.arg("tok").args(args).arg("--base-dir").arg(base_dir);
    command
}

fn output(mut command: Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// Returns the error of a command: one line.
fn complaint(mut command: Command) -> String {
    let failed = command.assert().failure().get_output().clone();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert_eq!((said.lines().count(), failed.stdout.len()), (1, 0), "{said}");
    said
}

/// Makes a base directory with a small tokenizer, imported by `tok import`.
fn with_tokenizer() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let options = nanochat_tokenizer::TrainOptions { vocab_size: 290, ..Default::default() };
    let text = "the cat and the hat 人工智能和人工 ".repeat(9);
    let tokenizer = nanochat_tokenizer::train([text].iter(), &options).unwrap();
    let file = base.path().join("made elsewhere.json");
    std::fs::write(&file, tokenizer.to_json()).unwrap();
    let said = output(tok(base.path(), &["import", file.to_str().unwrap()]));
    assert!(said.contains("290 tokens, 9 of them special") && !said.contains("added"), "{said}");
    base
}

#[test]
fn train_reads_shards_and_says_when_the_text_was_too_short() {
    let base = tempfile::tempdir().unwrap();
    let mut shards = ShardWriter::create(&base.path().join("base_data"), 1_000).unwrap();
    shards.push(Split::Train, "the cat and the hat 人工智能和人工 ").unwrap();
    shards.push(Split::Val, "the hat").unwrap();
    shards.finish().unwrap();
    let said = output(tok(base.path(), &["train", "--vocab-size", "270", "--special", "<|zh_start|>"]));
    assert!(said.contains("270 tokens, 10 of them special") && said.contains("validation"), "{said}");
    let short = tok(base.path(), &["train", "--vocab-size", "9000"]).assert().success();
    let warned = String::from_utf8(short.get_output().stderr.clone()).unwrap();
    assert!(warned.contains("not for 9000"), "{warned}");
    let small = complaint(tok(base.path(), &["train", "--vocab-size", "264"]));
    assert!(small.contains("at least 265"), "{small}");
}

#[test]
fn encode_and_decode_undo_each_other() {
    let base = with_tokenizer();
    let text = "the <|bos|> 人工智能\n";
    let mut encode = tok(base.path(), &["encode"]);
    encode.write_stdin(text);
    let ids = output(encode);
    let mut decode = tok(base.path(), &["decode"]);
    decode.write_stdin(ids.as_str());
    assert_eq!(output(decode), text);
    assert_eq!(output(tok(base.path(), &["encode", "a"])), "97\n");
    assert_eq!(output(tok(base.path(), &["decode", "97,", "98"])), "ab");
}

/// Imports one of the tokenizer's fixtures; also returns each of its texts with its ids.
fn with_kind(name: &str) -> (tempfile::TempDir, String, Vec<(String, String)>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nanochat-tokenizer/tests/fixtures");
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(fixtures.join(name).with_extension("json")).unwrap()).unwrap()
    };
    let (base, mut kind) = (json("base"), json(name));
    kind["file"]["model"]["merges"] = base["merges"].clone();
    let vocab = kind["file"]["model"]["vocab"].as_object_mut().unwrap();
    vocab.extend(base["vocab"].as_object().unwrap().clone());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("elsewhere.json");
    std::fs::write(&file, kind["file"].to_string()).unwrap();
    let imported =
        tok(folder.path(), &["import", file.to_str().unwrap()]).assert().success().get_output().clone();
    let texts: Vec<String> = serde_json::from_value(base["texts"].clone()).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(kind["ids"].clone()).unwrap();
    let line = |ids: &Vec<u32>| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let expected = texts.into_iter().zip(ids.iter().map(line)).collect();
    (folder, String::from_utf8(imported.stderr).unwrap(), expected)
}

fn encodes_as_expected(base: &Path, texts: &[(String, String)]) {
    for (text, ids) in texts {
        let mut encode = tok(base, &["encode"]);
        encode.write_stdin(text.as_str());
        assert_eq!(output(encode).trim_end(), ids, "{text:?}");
    }
}

#[test]
fn runs_of_spaces_that_a_file_adds_become_its_tokens() {
    let (base, said, texts) = with_kind("neox");
    assert_eq!(said, "");
    let code = texts.iter().find(|(text, _)| text.starts_with("def f(x)")).unwrap().clone();
    encodes_as_expected(base.path(), &[code, texts[2].clone()]);
}

#[test]
fn steps_behind_bytes_are_taken_as_falcon_has_them() {
    let (base, said, texts) = with_kind("falcon");
    assert_eq!(said, "");
    let digits = texts.iter().find(|(text, _)| text.starts_with("abc123456")).unwrap().clone();
    encodes_as_expected(base.path(), &[digits]);
}

#[test]
fn a_tokenizer_that_drops_text_is_imported_with_a_warning() {
    let (base, said, texts) = with_kind("words");
    assert!(said.contains("drops white space (Whitespace)") && said.lines().count() == 1, "{said}");
    encodes_as_expected(base.path(), &texts[1..3]);
}

#[test]
fn show_prints_chinese() {
    let base = with_tokenizer();
    let shown = output(tok(base.path(), &["show", "--zh"]));
    assert!(shown.contains("\"人工\"") && shown.contains("with Chinese characters"), "{shown}");
    assert!(!shown.contains("\" the\""), "{shown}");
    let byte = output(tok(base.path(), &["show", "--range", "97..98"]));
    assert!(byte.starts_with("     97   1  \"a\"\n"), "{byte}");
}

#[test]
fn eval_compares() {
    let base = with_tokenizer();
    let other = base.path().join("made elsewhere.json");
    let table = output(tok(base.path(), &["eval", "--compare", other.to_str().unwrap()]));
    let chinese = table.lines().find(|line| line.starts_with("Chinese")).unwrap();
    assert!(chinese.contains("+0.0 %"), "{table}");
}

#[test]
fn render_marks_what_is_trained() {
    let base = with_tokenizer();
    let file = base.path().join("chat.jsonl");
    std::fs::write(&file, r#"[{"role":"user","content":"问"},{"role":"assistant","content":"答"}]"#).unwrap();
    let shown = output(tok(base.path(), &["render", file.to_str().unwrap()]));
    assert!(
        shown.contains("<|bos|><|user_start|>问<|user_end|><|assistant_start|>⟦答<|assistant_end|>⟧"),
        "{shown}"
    );
}

#[test]
fn mistakes_get_one_sentence() {
    let empty = tempfile::tempdir().unwrap();
    let none = complaint(tok(empty.path(), &["encode", "a"]));
    assert!(none.contains("no tokenizer at") && none.contains("nanochat tok train"), "{none}");

    let base = with_tokenizer();
    let unknown = complaint(tok(base.path(), &["decode", "97 290"]));
    assert!(unknown.contains("no token 290") && unknown.contains("289"), "{unknown}");
    assert!(complaint(tok(base.path(), &["decode", "x"])).contains("\"x\""));
    let mut latin1 = tok(base.path(), &["encode"]);
    latin1.write_stdin(b"caf\xe9".as_slice());
    assert!(complaint(latin1).contains("not UTF-8: byte 3"));
    assert!(complaint(tok(base.path(), &["import", "nowhere.json"])).contains("nowhere.json"));
    assert!(complaint(tok(base.path(), &["train", "--data", "nowhere"])).contains("nowhere"));
}
