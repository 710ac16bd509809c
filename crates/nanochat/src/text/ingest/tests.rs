use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::text::dataset::{OnBadShard, Shards, Split};

fn options() -> IngestOptions {
    let read = ReadOptions { field: "text".into(), ..ReadOptions::default() };
    IngestOptions { read, val_share: 0.01, chars_per_shard: 1_000, seed: None }
}

fn split_lines() -> IngestOptions {
    let read = ReadOptions { split_lines: true, ..options().read };
    IngestOptions { read, ..options() }
}

fn skipping() -> IngestOptions {
    let read = ReadOptions { bad_lines: BadLines::Skip, ..options().read };
    IngestOptions { read, ..options() }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Folder {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("in/deeper")).unwrap();
        for (name, content) in files {
            fs::write(temp.path().join("in").join(name), content).unwrap();
        }
        Folder(temp)
    }

    fn ingest(&self, options: &IngestOptions) -> Result<Ingested, IngestError> {
        let _ = fs::remove_dir_all(self.0.path().join("out"));
        ingest(&[self.0.path().join("in")], &self.0.path().join("out"), options, &ProgressBar::hidden())
    }

    fn error(&self, options: &IngestOptions) -> String {
        let error = self.ingest(options).unwrap_err().to_string();
        let left = fs::read_dir(self.0.path()).unwrap().count();
        assert_eq!(left, 1, "only the input is there after an error");
        error
    }

    fn texts(&self, split: Split) -> Vec<String> {
        let shards = Shards::open(&self.0.path().join("out"), OnBadShard::Refuse).unwrap();
        shards.texts(split).collect::<Result<_, _>>().unwrap()
    }
}

#[test]
fn every_kind_of_file_is_read() {
    let zst = zstd::encode_all("{\"text\": \"三\", \"id\": 1}\n{\"text\": null}\n".as_bytes(), 1).unwrap();
    let folder = Folder::new(&[
        ("a.txt", b"\xef\xbb\xbffirst\nsecond\0\n"),
        ("b.md", b"# two\n"),
        ("deeper/c.jsonl.zst", &zst),
        ("gbk.txt", b"\xc4\xe3\xba\xc3"),
        ("d.CSV", b"id,text\r\n1,\"four,\nfive\"\r\n"),
        ("e.tsv", b"text\tid\nsix\t2\n"),
        ("f.json", b"[\n  {\"text\": \"seven\"},\n  {\"text\": \"eight\"}\n]\n"),
        ("blank.txt", b" \n"),
        (".hidden.txt", b"hidden"),
        ("picture.png", b"png"),
        ("archive.tar.gz", b"tar"),
        ("README", b"readme"),
    ]);
    let report = folder.ingest(&skipping()).unwrap();
    assert_eq!(folder.texts(Split::Val), ["first\nsecond\n"]);
    assert_eq!(folder.texts(Split::Train), ["# two\n", "four,\nfive", "三", "six", "seven", "eight"]);
    assert_eq!(report.kinds[&FileKind::Text], Count { files: 4, documents: 2 });
    assert_eq!(report.kinds[&FileKind::Json], Count { files: 2, documents: 3 });
    assert_eq!((report.blank, report.odd.count(Oddity::NotUtf8), report.nuls), (2, 1, 1));
    let odd = report.odd.sentences();
    assert!(
        odd[0].starts_with("left out 1 document that is not UTF-8: ")
            && odd[0].contains("gbk.txt (it looks like GBK")
    );
    let expected = ["file with .png", "file with .tar.gz", "file with no extension", "hidden file or folder"];
    assert_eq!(report.passed.sentences(), expected.map(|what| format!("passed over 1 {what}")));

    // The result can be ingested again.
    let again = folder.0.path().join("again");
    let out = folder.0.path().join("out");
    let report = ingest(&[out], &again, &options(), &ProgressBar::hidden()).unwrap();
    assert_eq!(report.kinds[&FileKind::Parquet], Count { files: 2, documents: 7 });
}

#[test]
fn lines_are_documents_if_asked_and_one_in_a_hundred_validates() {
    let text: String = (0..1_000).map(|i| format!("line {i}\n")).collect();
    let folder = Folder::new(&[("a.txt", text.as_bytes())]);
    let report = folder.ingest(&split_lines()).unwrap();
    assert_eq!((report.written.train_documents, report.written.val_documents), (990, 10));
    assert_eq!(report.written.shards, 9, "7,890 characters, 78 of them for validation");
    assert_eq!(folder.texts(Split::Val)[1], "line 100");
}

#[test]
fn a_shuffle_keeps_every_document_and_follows_the_seed() {
    let text: String = (0..500).map(|i| format!("line {i}\n")).collect();
    let folder = Folder::new(&[("a.txt", text.as_bytes()), ("b.txt", b"one\ntwo")]);
    let all = |seed| {
        folder.ingest(&IngestOptions { seed, ..split_lines() }).unwrap();
        [folder.texts(Split::Train), folder.texts(Split::Val)].concat()
    };
    let (plain, one, same, two) = (all(None), all(Some(1)), all(Some(1)), all(Some(2)));
    assert!(one == same && one != two && one != plain);
    let set = |texts: Vec<String>| texts.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(one), set(plain));
}

#[test]
fn mistakes_are_one_sentence_with_the_file_and_the_line() {
    let chat = br#"[{"role":"user","content":"hi"}]"#;
    let cases: [(&str, &[u8], &str); 7] = [
        ("a.jsonl", chat, "a.jsonl, line 1: it is a conversation"),
        ("a.jsonl", b"{\"messages\": []}", "a.jsonl, line 1: it is a conversation"),
        (
            "a.jsonl",
            b"\n{\"content\": \"x\", \"id\": 1}",
            "line 2: no field `text`; choose one with --field: content, id",
        ),
        ("a.jsonl", b"{\"text\": 1}", "is not a string"),
        ("a.jsonl", b"{\"text\": ", "not JSON"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read"),
        ("a.txt.gz", b"not gz", "a.txt.gz"),
    ];
    for (name, content, expected) in cases {
        let error = Folder::new(&[(name, content)]).error(&options());
        assert!(error.contains(expected), "{error}");
    }
    assert!(Folder::new(&[("a.png", b"")]).error(&options()).contains("found no .txt"));
    let error = Folder::new(&[("a.txt", b"alone")]).error(&options());
    assert!(error.contains("0 training and 1 validation documents"), "{error}");
    let big = vec![b'a'; (64 << 20) + 1];
    assert!(Folder::new(&[("a.txt", &big)]).error(&options()).contains("--split-lines"));
}
