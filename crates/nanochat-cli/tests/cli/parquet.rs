//! Tests Parquet by the binary: files of other programs, and that every command reads what another one wrote.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::*;

/// Returns a file made by scripts/parity/make_parquet_fixtures.py.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nanochat/tests/fixtures").join(name)
}

#[test]
fn files_of_every_packing_and_encoding_give_the_same_shards() {
    let mut shards = Vec::new();
    for name in
        ["none_v1", "gzip_v1", "brotli_v2", "lz4_v1", "delta_byte_array_v1", "delta_length_byte_array_v2"]
    {
        let base = tempfile::tempdir().unwrap();
        let file = fixture(&format!("parquet/{name}.parquet"));
        run(base.path(), &format!("data ingest {}", file.display()));
        shards.push(fs::read(base.path().join("base_data/shard_00000.parquet")).unwrap());
    }
    assert!(shards.iter().all(|shard| shard == &shards[0]));
}

#[test]
fn documents_that_share_a_long_prompt_are_all_read() {
    let base = tempfile::tempdir().unwrap();
    let file = fixture("parquet_large/shared_prompt.parquet");
    assert!(fs::metadata(&file).unwrap().len() < 20_000);
    let said = output(nanochat(base.path(), &format!("data ingest {}", file.display())));
    assert!(said.contains("400 documents"), "{said}");
    run(base.path(), "data stats");
}

/// Six megabytes of one repeated line, like a log, in 15 KB.
#[test]
fn what_ingest_writes_is_read_by_every_later_command() {
    let base = tempfile::tempdir().unwrap();
    let raw = base.path().join("raw");
    fs::create_dir(&raw).unwrap();
    let log = File::create(raw.join("log.txt.gz")).unwrap();
    let mut log = flate2::write::GzEncoder::new(log, flate2::Compression::best());
    let line = "2024-05-01 12:00:00 INFO the server answered a request in 12 ms\n";
    (0..100_000).for_each(|_| log.write_all(line.as_bytes()).unwrap());
    log.finish().unwrap();
    for i in 0..6 {
        let words: String =
            (0..40).map(|k| format!("The {} cat sat on mat {}. ", i * k, i + k * k)).collect();
        fs::write(raw.join(format!("a{i}.txt")), words).unwrap();
    }
    let at = |name: &str| base.path().join(name).display().to_string();
    let said = output(nanochat(base.path(), &format!("data ingest {}", raw.display())));
    assert!(said.contains("7 documents"), "{said}");
    run(base.path(), "tok train --vocab-size 300");
    run(base.path(), "data stats");
    run(
        base.path(),
        &format!("data clean {} --out {} --no-rules --dedup exact", at("base_data"), at("clean")),
    );
    run(base.path(), &format!("data stats {}", at("clean")));
    run(base.path(), &format!("data mix all=1:{} --total 100000 --out {}", at("base_data"), at("mixed")));
    for data in ["base_data", "clean", "mixed"] {
        run(base.path(), &format!("{TINY} --data all=1:{} --model-tag {data} --num-iterations 2", at(data)));
    }
}

#[test]
fn damage_is_told_in_one_sentence() {
    let whole = fs::read(fixture("parquet/snappy_v1.parquet")).unwrap();
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("damaged.parquet");
    for at in (4..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        fs::write(&path, damaged).unwrap();
        let line =
            format!("data ingest {} --out {}", path.display(), base.path().join(at.to_string()).display());
        let said = nanochat(base.path(), &line).output().unwrap().stderr;
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "byte {at}: {said}");
    }
}
