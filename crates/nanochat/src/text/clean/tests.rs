use std::fs;

use clap::Parser;

use super::*;
use crate::text::dataset::{OnBadShard, Shards};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: CleanOptions,
}

fn options(flags: &str) -> CleanOptions {
    Flags::parse_from(format!("clean {flags}").split_whitespace()).options
}

const ZH: &str = "春天来了，院子里的桃花开得正好。老人坐在树下，给孩子们讲很久以前的故事。故事里有一条会说话的河，\
    每到夜里就把白天听见的事情告诉月亮。孩子们听得入了迷，谁也不愿意先回家吃饭。";
const EN: &str = "The old bridge had stood over the river for more than a hundred years, and the people of the \
    village said that it would outlive them all. Every spring the water rose to its arches, and every summer \
    children jumped from it to cool themselves, while their parents watched with worry and with envy.";

fn run(lines: &[&str], flags: &str) -> (Cleaned, Vec<String>) {
    let temp = tempfile::tempdir().unwrap();
    let json = |text: &&str| serde_json::json!({ "text": text }).to_string() + "\n";
    fs::write(temp.path().join("in.jsonl"), lines.iter().map(json).collect::<String>()).unwrap();
    cleaned(&[temp.path().join("in.jsonl")], &temp.path().join("out"), flags).unwrap()
}

fn cleaned(paths: &[PathBuf], out: &Path, flags: &str) -> Result<(Cleaned, Vec<String>), CleanError> {
    let report = clean(paths, out, &options(flags), &ProgressBar::hidden())?;
    let shards = Shards::open(out, OnBadShard::Refuse)?;
    let mut texts: Vec<String> = shards.texts(Split::Val).map(Result::unwrap).collect();
    texts.extend(shards.texts(Split::Train).map(Result::unwrap));
    Ok((report, texts))
}

#[test]
fn documents_are_normalised_judged_and_deduplicated() {
    let near = EN.replace("a hundred years", "a hundred Years!");
    let wide = ZH.replace('春', "\u{feff}Ａ春");
    let lines =
        [EN, &wide, "short", EN, &near, &"again and again ".repeat(40), "", "Das ist ein deutscher Satz."];
    let (report, texts) = run(&lines, "");
    assert_eq!(texts, [EN.to_string(), ZH.replace('春', "A春").replace('，', ",")]);
    let dropped: Vec<(Reason, usize)> = report.dropped.iter().map(|(r, d)| (*r, d.documents)).collect();
    let expected = [
        (Reason::Blank, 1),
        (Reason::TooShort, 2),
        (Reason::StopWords, 1),
        (Reason::Duplicate, 1),
        (Reason::NearDuplicate, 1),
    ];
    assert_eq!(dropped, expected);
    assert!(report.dropped[&Reason::NearDuplicate].samples[0].contains("Years!"));
    assert_eq!((report.documents, report.languages["zh"][0], report.languages["en"][0]), (8, 1, 1));
}

#[test]
fn languages_scripts_and_switches() {
    let traditional = "漢字簡化以前，臺灣與香港的書籍都用繁體字印刷。圖書館裏還藏著許多舊書，讀者可以在閱覽室裏慢慢翻看，\
        遇到不認識的字就查字典。後來電腦普及了，人們在螢幕上閱讀，紙本書卻沒有消失。";
    let (report, texts) = run(&[EN, ZH, traditional], "--lang zh --script both --width keep");
    assert_eq!(texts[..2], [ZH, traditional]);
    assert!(texts[2].starts_with("汉字简化以前，台湾与香港的书籍都用繁体字印刷"), "{}", texts[2]);
    assert_eq!(report.dropped[&Reason::OtherLanguage].documents, 1);
    let (_, texts) = run(&[ZH, traditional], "--script simplified --width keep");
    assert!(texts.len() == 2 && !texts[1].contains('漢'));
    let (_, texts) = run(&["x", "x", "y"], "--no-rules --dedup none");
    assert_eq!(texts, ["x", "x", "y"]);
}

#[test]
fn shares_of_the_files_together_are_all_of_them() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("in");
    fs::create_dir(&source).unwrap();
    for i in 0..5 {
        fs::write(source.join(format!("{i}.txt")), format!("document {i}\n----------\nline two")).unwrap();
        fs::write(source.join(format!("{i}b.txt")), format!("document {i} b")).unwrap();
    }
    let part = |i| {
        let out = temp.path().join(format!("out{i}"));
        cleaned(std::slice::from_ref(&source), &out, &format!("--no-rules --dedup exact --shard {i}/2"))
            .unwrap()
    };
    let ((first, a), (_, b)) = (part(0), part(1));
    assert_eq!((a.len(), b.len(), first.lines_dropped), (5, 5, 5));
    let mut all = [a, b].concat();
    all.sort();
    assert_eq!(all[0], "document 0\nline two");
    all.dedup();
    assert_eq!(all.len(), 10);
    let error = cleaned(&[source], &temp.path().join("x"), "--shard 3/11").unwrap_err().to_string();
    assert!(error.contains("10 files") && error.contains("11"), "{error}");
    assert!(shard("2/2").is_err() && shard("a").is_err() && shard("1/2") == Ok((1, 2)));
}

#[test]
fn the_validation_shard_stays_one() {
    let temp = tempfile::tempdir().unwrap();
    let [source, out] = ["in", "out"].map(|name| temp.path().join(name));
    let mut writer = ShardWriter::create(&source, 1_000).unwrap();
    (0..40).for_each(|i| writer.push(Split::Train, &format!("{i} {ZH}")).unwrap());
    (0..3).for_each(|i| writer.push(Split::Val, &format!("validation {i}")).unwrap());
    writer.finish().unwrap();
    let (report, texts) = cleaned(&[source], &out, "--no-rules --dedup exact --keep-validation").unwrap();
    assert_eq!((report.written.val_documents, report.written.train_documents), (3, 40));
    assert!(texts[..3].iter().all(|text| text.starts_with("validation")));
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let lines: Vec<String> = (0..200).map(|i| format!("{i} {}", if i % 3 == 0 { EN } else { ZH })).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&lines, "").1)
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_bad_file_is_named_and_nothing_is_left() {
    let temp = tempfile::tempdir().unwrap();
    let [source, out] = ["in.jsonl", "out"].map(|name| temp.path().join(name));
    fs::write(&source, "{\"text\": \"fine\"}\n{\"text\": 3}\n").unwrap();
    let error = cleaned(&[source], &out, "").unwrap_err().to_string();
    assert!(error.contains("in.jsonl, line 2"), "{error}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}
