//! `nanochat tok` by its binary: a tokenizer imported, used, and every mistake answered in one sentence.

use std::path::Path;

use assert_cmd::Command;
use nanochat::dataset::{ShardWriter, Split};

fn tok(base_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("nanochat").unwrap();
    command.arg("tok").args(args).arg("--base-dir").arg(base_dir);
    command
}

fn output(mut command: Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// What the command says on its way out with an error: one line.
fn complaint(mut command: Command) -> String {
    let failed = command.assert().failure().get_output().clone();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert_eq!((said.lines().count(), failed.stdout.len()), (1, 0), "{said}");
    said
}

/// A base directory with a small tokenizer in it, brought there by `tok import`.
fn with_tokenizer() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let options = nanochat_tokenizer::TrainOptions { vocab_size: 290, ..Default::default() };
    let text = "the cat and the hat 人工智能和人工 ".repeat(9);
    let tokenizer = nanochat_tokenizer::train([text].iter(), &options).unwrap();
    let file = base.path().join("made elsewhere.json");
    tokenizer.save(&file).unwrap();
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
