//! Tests foreign text files through `data ingest` and `data clean`: encodings, tables, broken JSON. Everything left out
//! or repaired is counted and named.

use std::fs;
use std::path::Path;

use encoding_rs::{BIG5, GBK};
use nanochat::text::dataset::{OnBadShard, Shards, Split};

use crate::common::*;

const ZH: [&str; 4] = [
    "春天来了，桃花开得正好。",
    "老人坐在树下，给孩子们讲故事。",
    "河水每天都在说话。",
    "谁也不愿意先回家吃饭。",
];
const TRADITIONAL: &str = "圖書館裡還藏著許多舊書，讀者可以慢慢翻看，不會有人來打擾他們。";

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::create_dir_all(base.path().join(name).parent().unwrap()).unwrap();
        fs::write(base.path().join(name), bytes).unwrap();
    }
    base
}

/// Returns the stderr of `data ingest FILE FLAGS`, and the documents it writes.
fn ingest(base: &Path, file: &str, flags: &str) -> (String, Vec<String>) {
    let said = said(nanochat(base, &line(base, file, flags)));
    let shards = Shards::open(&base.join("out"), OnBadShard::Refuse).unwrap();
    let texts =
        [Split::Val, Split::Train].map(|split| shards.texts(split).collect::<Result<Vec<_>, _>>().unwrap());
    fs::remove_dir_all(base.join("out")).unwrap();
    (said, texts.concat())
}

fn line(base: &Path, file: &str, flags: &str) -> String {
    format!("data ingest {} --out {} {flags}", base.join(file).display(), base.join("out").display())
}

fn utf16(text: &str, mark: &str) -> Vec<u8> {
    format!("{mark}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn text_that_is_not_utf8_is_named_with_its_encoding_and_read_when_told() {
    let text = ZH.join("\n") + "\n";
    let gbk = GBK.encode(&text).0.into_owned();
    let big5 = BIG5.encode(TRADITIONAL).0.repeat(2);
    let gz = {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        std::io::Write::write_all(&mut gz, &gbk).unwrap();
        gz.finish().unwrap()
    };
    let base = folder(&[
        ("gbk.txt", &gbk),
        ("one.txt", &GBK.encode(ZH[0]).0),
        ("one_of_two.txt", &[b"A line.\n", &*GBK.encode(ZH[0]).0].concat()),
        ("marked.txt", &utf16(&text, "\u{feff}")),
        ("utf16.txt", &utf16(&text, "")),
        ("big5.txt", &big5),
        ("gbk.txt.gz", &gz),
        ("gbk.txt.zst", &zstd::encode_all(&gbk[..], 1).unwrap()),
        ("gbk.csv", &GBK.encode("编号,正文\r\n1,\"一，\n二\"\r\n2,三\r\n").0),
        ("both/gbk.txt", &gbk),
        ("both/utf8.txt", text.as_bytes()),
    ]);
    let at = base.path();
    for name in ["gbk.txt", "gbk.txt.gz", "gbk.txt.zst"] {
        let parts =
            [name, "4 of 4 documents are not UTF-8, the first at line 1", "looks like GBK", "--encoding gbk"];
        refuses(at, &line(at, name, "--split-lines"), &parts);
        let (said, texts) = ingest(at, name, "--split-lines --encoding gbk");
        assert_eq!(texts, ZH);
        assert_eq!(said.trim(), "read 1 file as GBK");
    }
    refuses(at, &line(at, "one.txt", "--split-lines"), &["its only document, at line 1, is not UTF-8"]);
    refuses(at, &line(at, "one_of_two.txt", "--split-lines"), &["1 of 2 documents is not UTF-8, at line 2"]);
    refuses(at, &line(at, "utf16.txt", "--split-lines"), &["utf16.txt", "not UTF-8", "--encoding utf-16le"]);
    refuses(at, &line(at, "big5.txt", "--split-lines"), &["big5.txt", "not UTF-8", "--encoding big5"]);
    assert_eq!(ingest(at, "utf16.txt", "--split-lines --encoding utf-16le").1, ZH);
    assert_eq!(ingest(at, "marked.txt", "--split-lines").1, ZH);
    assert_eq!(ingest(at, "gbk.csv", "--field 正文 --encoding gb2312").1, ["一，\n二", "三"]);
    // A UTF-8 file among them is read as UTF-8; too little remains after what is left out.
    let (said, texts) = ingest(at, "both", "--split-lines --encoding gbk");
    assert_eq!(
        (said.trim(), texts),
        ("read 1 file as GBK", [ZH, ZH].concat().into_iter().map(String::from).collect())
    );
    assert_eq!(ingest(at, "both", "--split-lines --bad-lines skip").1, ZH);
    let skipped = [
        "0 training and 0 validation",
        "left out 4 documents that are not UTF-8",
        "gbk.txt, lines 1, 2, 3, 4",
    ];
    refuses(at, &line(at, "gbk.txt", "--split-lines --bad-lines skip"), &skipped);
    refuses(at, &line(at, "gbk.txt", "--encoding klingon"), &["klingon", "gb18030"]);
    let clean = |more: &str| {
        format!("data clean {} --out {} {more}", at.join("gbk.txt").display(), at.join("c").display())
    };
    refuses(at, &clean(""), &["gbk.txt", "not UTF-8", "--encoding gbk"]);
    let cleaned =
        output(nanochat(at, &clean("--encoding gbk --split-lines --no-rules --dedup none --width keep")));
    assert!(cleaned.contains("3 training and 1 validation documents"), "{cleaned}");
}

#[test]
fn malformed_bytes_of_a_named_encoding_are_counted_with_their_lines() {
    let mut bytes = GBK.encode(&ZH.join("\n")).0.into_owned();
    bytes.splice(2..2, [0xff]);
    bytes.push(0xb0);
    let base = folder(&[("novel.txt", &bytes)]);
    let (said, texts) = ingest(base.path(), "novel.txt", "--split-lines --encoding gbk");
    assert!(
        said.contains("read 2 malformed sequences as U+FFFD: ")
            && said.contains("novel.txt, lines 1, 4 (in GBK)"),
        "{said}"
    );
    assert!(texts[0].starts_with("春\u{fffd}天") && texts[3].ends_with("。\u{fffd}"), "{texts:?}");
}

#[test]
fn what_python_writes_into_json_is_mended_and_broken_lines_are_skipped_when_told() {
    let good: String = (0..8).map(|i| format!("{{\"text\": \"line {i}\", \"score\": NaN}}\n")).collect();
    let cut = good.clone() + "{\"text\": \"cut \\ud83d\"}\n{\"text\": \"whole \\ud83d\\ude00\"}\n";
    let mut broken = cut.clone().into_bytes();
    broken.extend(b"{\"text\": \n{\"body\": 1}\n{\"text\": \"caf\xe9\"}\n{\"text\": \"last\"}\n");
    let base =
        folder(&[("nan.jsonl", good.as_bytes()), ("cut.jsonl", cut.as_bytes()), ("broken.jsonl", &broken)]);
    let at = base.path();
    let (said, texts) = ingest(at, "nan.jsonl", "");
    assert_eq!(texts.len(), 8);
    assert!(
        said.contains("8 lines had NaN or Infinity, read as null: ")
            && said.contains("lines 1, 2, 3, 4, 5; …"),
        "{said}"
    );
    let (said, texts) = ingest(at, "cut.jsonl", "");
    assert_eq!(texts[8..], ["cut \u{fffd}", "whole 😀"]);
    assert!(
        said.contains("1 line had half of a surrogate pair, read as U+FFFD: ")
            && said.contains("cut.jsonl, line 9"),
        "{said}"
    );
    refuses(at, &line(at, "broken.jsonl", ""), &["broken.jsonl, line 11: not JSON", "--bad-lines skip"]);
    let (said, texts) = ingest(at, "broken.jsonl", "--bad-lines skip");
    assert_eq!(texts.last().unwrap(), "last");
    assert_eq!(texts.len(), 11);
    assert!(
        said.contains("left out 2 bad lines: ") && said.contains("broken.jsonl, lines 11, 12 (not JSON"),
        "{said}"
    );
    assert!(
        said.contains("left out 1 document that is not UTF-8: ") && said.contains("broken.jsonl, line 13"),
        "{said}"
    );
    refuses(
        at,
        &line(at, "nan.jsonl", "--field body --bad-lines skip"),
        &["0 training", "left out 8 bad lines", "no field `body`"],
    );
}

#[test]
fn a_field_may_lie_inside_another() {
    let lines = b"{\"doc\": {\"text\": \"one\"}}\n{\"doc\": {\"text\": \"two\"}, \"doc.text\": \"three\"}\n";
    let base = folder(&[("nested.jsonl", lines)]);
    assert_eq!(ingest(base.path(), "nested.jsonl", "--field doc.text").1, ["one", "three"]);
    refuses(
        base.path(),
        &line(base.path(), "nested.jsonl", ""),
        &["line 1: no field `text`", "--field: doc.text"],
    );
}

#[test]
fn a_row_of_another_length_and_a_missing_column_are_named() {
    let base = folder(&[("t.csv", b"id,text\n1,one\n2\n3,three\n4,four\n"), ("u.tsv", b"a\tb\n1\t2\n")]);
    let at = base.path();
    refuses(at, &line(at, "t.csv", ""), &["t.csv, line 3: 1 fields where 2 are due", "--bad-lines skip"]);
    let (said, texts) = ingest(at, "t.csv", "--bad-lines skip");
    assert_eq!(texts, ["one", "three", "four"]);
    assert!(said.contains("left out 1 bad line: ") && said.contains("t.csv, line 3 (1 fields"), "{said}");
    refuses(at, &line(at, "u.tsv", ""), &["u.tsv, line 1: no column `text`", "--field: a, b"]);
}

#[test]
fn what_is_no_text_is_passed_over_by_name() {
    let base = folder(&[
        ("in/a.txt", b"one\ntwo\nthree\n"),
        ("in/b.docx", b"PK"),
        ("in/c.docx", b"PK"),
        ("in/.hidden/d.txt", b"hidden"),
        ("in/README", b"readme"),
        ("none/e.pdf", b"%PDF"),
        ("empty/.keep", b""),
    ]);
    let at = base.path();
    #[cfg(unix)]
    std::os::unix::fs::symlink(at.join("none"), at.join("in/link")).unwrap();
    let passed = [
        "passed over 2 files with .docx",
        "passed over 1 file with no extension",
        "passed over 1 hidden file or folder",
        "passed over 1 link to a folder",
    ];
    let said_of_ingest = ingest(at, "in", "--split-lines").0;
    let none = at.join("none").display().to_string();
    let clean = format!(
        "data clean {} {none} --out {} --split-lines --no-rules",
        at.join("in").display(),
        at.join("c").display()
    );
    let said_of_clean = said(nanochat(at, &clean));
    for said in [&said_of_ingest, &said_of_clean] {
        passed.iter().for_each(|part| assert!(said.contains(part), "no {part:?} in {said}"));
    }
    assert!(said_of_clean.contains(&format!("found nothing to read in {none}")), "{said_of_clean}");
    refuses(at, &line(at, "none", ""), &["nothing to read", "none", "1 file with .pdf"]);
    refuses(at, &line(at, "empty", ""), &["nothing to read", "empty"]);
}
