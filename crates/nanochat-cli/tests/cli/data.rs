//! Tests `nanochat data` by the binary: from raw files to a corpus, and files made to exhaust memory.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::*;

const ZH: &str = "春天来了，院子里的桃花开得正好。老人坐在树下，给孩子们讲很久以前的故事。故事里有一条会说话的河，\
    每到夜里就把白天听见的事情告诉月亮。孩子们听得入了迷，谁也不愿意先回家吃饭。";
const EN: &str = "The old bridge had stood over the river for more than a hundred years, and the people of the \
    village said that it would outlive them all. Every spring the water rose to its arches, and every summer \
    children jumped from it to cool themselves, while their parents watched with worry and with envy.";

/// Writes `n` different documents as JSON lines.
fn corpus(path: &Path, text: &str, n: usize) {
    let words = ["山", "河", "north", "south", "木", "火", "east", "west"];
    let line = |i: usize| {
        let own: Vec<String> =
            (0..60).map(|k| format!("{}{}", words[(i * 3 + k) % 8], i * 61 + k * k)).collect();
        json!({ "text": format!("{text} {}", own.join(" ")) }).to_string() + "\n"
    };
    fs::write(path, (0..n).map(line).collect::<String>()).unwrap();
}

#[test]
fn clean_mix_count_and_train_a_tokenizer_on_two_languages() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name).display().to_string();
    for (name, text) in [("zh", ZH), ("en", EN)] {
        corpus(&base.path().join(format!("{name}.jsonl")), text, 80);
        let raw = at(&format!("{name}.jsonl"));
        let line = format!("data clean {raw} --out {} --dedup exact --no-rules --width letters", at(name));
        let said = output(nanochat(base.path(), &line));
        assert!(said.contains("80 documents in 1 file,"), "{said}");
    }
    let report: Value =
        serde_json::from_slice(&fs::read(base.path().join("zh/cleaned.json")).unwrap()).unwrap();
    assert_eq!(
        report["kept"][0],
        json!({ "language": "zh", "documents": 80, "characters": report["kept"][0]["characters"] })
    );
    let sources = format!("zh=0.7:{} en=0.3:{}", at("zh"), at("en"));
    let said = output(nanochat(base.path(), &format!("data mix {sources} --total 100000")));
    let share: Option<f64> = said.split_whitespace().nth(1).and_then(|share| share.parse().ok());
    assert!((share.unwrap() - 70.0).abs() < 1.0 && said.contains("epochs of"), "{said}");
    run(base.path(), &format!("data mix {sources} --total 100000 --out {}", at("again")));
    for name in ["shard_00000.parquet", "shard_00001.parquet"] {
        let [a, b] =
            ["base_data", "again"].map(|folder| fs::read(base.path().join(folder).join(name)).unwrap());
        assert!(a == b, "two mixtures with one seed differ in {name}");
    }
    let said = output(nanochat(base.path(), &format!("tok train --vocab-size 400 --mix {sources}")));
    assert!(said.contains("zh ") && said.contains("en "), "{said}");
    let said = output(nanochat(base.path(), &format!("tok sizes --sizes 300 400 --mix {sources}")));
    assert!(
        said.contains("zh: zh") && said.contains("trained (300)") && said.contains("trained (400)"),
        "{said}"
    );
    // A vocabulary size that the text is too short for gets no row.
    let mut command = nanochat(base.path(), &format!("tok sizes --sizes 30000 40000 --mix {sources}"));
    let printed = command.output().unwrap();
    let said = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(said.matches("zh: zh").count(), 1, "{said}");
    assert!(String::from_utf8(printed.stderr).unwrap().contains("pairs for"));
    let said = output(nanochat(base.path(), "data stats --depth 4"));
    assert!(said.contains("d4 (") && said.contains("epochs"), "{said}");
    refuses(base.path(), "data mix zh:x", &["NAME=WEIGHT:FOLDER"]);
    refuses(base.path(), "data download nothing", &["neither a set", "fineweb-edu"]);
    refuses(
        base.path(),
        "data download https://me:secret@host?sig=1",
        &["https://host does not name a file"],
    );
    for (variable, value, part) in [
        ("HF_TOKEN", "two secret", "HF_TOKEN holds more than a token"),
        ("HTTPS_PROXY", "ftp://me:secret@host", "HTTPS_PROXY is not the address of a proxy"),
    ] {
        let mut command = nanochat(base.path(), "data download words");
        command.env_remove("https_proxy").env(variable, value);
        let sentence = complaint(command);
        assert!(sentence.contains(part) && !sentence.contains("secret"), "{sentence}");
    }
}

/// Runs a command and returns whether it succeeded, and its peak memory in bytes, polled while it runs.
#[cfg(target_os = "linux")]
fn peak_memory_of(mut command: std::process::Command) -> (bool, u64) {
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().unwrap() {
            return (status.success(), peak);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn files_made_to_fill_the_memory_are_refused_in_little_of_it() {
    let base = tempfile::tempdir().unwrap();
    // A line of 2 GB, as a sparse file of zeros that takes no disk space.
    let long = base.path().join("long.jsonl");
    File::create(&long).unwrap().set_len(2_000_000_000).unwrap();
    // 2 GB of zeros, compressed to 60 KB.
    let bomb = base.path().join("bomb.jsonl.zst");
    let packed = zstd_of_zeros(2_000);
    fs::write(&bomb, packed).unwrap();
    for path in [long, bomb] {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("nanochat"));
        command.args(["data", "clean"]).arg(&path).arg("--out").arg(base.path().join("out"));
        command.stderr(std::process::Stdio::null());
        let (succeeded, peak) = peak_memory_of(command);
        assert!(!succeeded && peak < 400 << 20, "{}: {peak} bytes", path.display());
    }
}

/// Returns one zstd frame per megabyte of zeros, concatenated.
#[cfg(target_os = "linux")]
fn zstd_of_zeros(megabytes: usize) -> Vec<u8> {
    // Magic, a header for a window of 1 MiB, then RLE blocks of 128 KiB of one zero byte.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    for i in 0..8 {
        let header: u32 = (131_072 << 3) | 1 << 1 | u32::from(i == 7);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame.repeat(megabytes)
}
