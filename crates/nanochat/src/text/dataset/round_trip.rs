//! Tests that every reader returns all written text byte for byte.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::files::table;

/// Generates ordinary and extreme documents: empty, one character many times, one endless line.
fn document(most: usize) -> impl Strategy<Value = String> {
    let odd = ["", "\0", "\r", "\r\n\r\n", "\u{feff}", "🙂", "猫\0狗", "\u{10ffff}", " ", "\u{85}\u{2028}"];
    prop_oneof![
        3 => any::<String>(),
        2 => proptest::sample::select(odd.to_vec()).prop_map(String::from),
        2 => ("\\PC{1,30}", 1..most / 30).prop_map(|(text, times)| text.repeat(times)),
        1 => ("[a-zé猫🙂]", 1..most / 4).prop_map(|(letter, times)| letter.repeat(times)),
        1 => (any::<u64>(), 1..most).prop_map(|(seed, length)| random_letters(seed, length)),
    ]
}

/// Returns random letters, which compress badly.
fn random_letters(seed: u64, length: usize) -> String {
    let mut rng = nanochat_tensor::Rng::new(&[seed]);
    (0..length).map(|_| char::from(b' ' + rng.below(95) as u8)).collect()
}

fn corpus(most: usize) -> impl Strategy<Value = Vec<String>> {
    let tiny = proptest::collection::vec("[a-c]{0,2}", 2..3_000);
    prop_oneof![4 => proptest::collection::vec(document(most), 2..40), 1 => tiny]
}

/// Writes documents and reads them with all readers. The first document and every seventh are for validation.
fn round_trip(documents: &[String], chars_per_shard: usize, from: usize) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let mut writer = ShardWriter::create(&dir, chars_per_shard).unwrap();
    let split = |i| if i % 7 == 0 { Split::Val } else { Split::Train };
    for (i, document) in documents.iter().enumerate() {
        writer.push(split(i), document).unwrap();
    }
    writer.finish().unwrap();
    let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
    for which in [Split::Train, Split::Val] {
        let mut expected = documents.iter().enumerate().filter(|(i, _)| split(*i) == which).map(|(_, d)| d);
        let mut places = Vec::new();
        for chunk in shards.chunks(which, RowAt::default()) {
            let TextChunk { at, texts } = chunk.unwrap();
            for (i, text) in texts.into_iter().enumerate() {
                let text = text.unwrap();
                assert!(Some(&text) == expected.next(), "document {} differs", places.len());
                places.push((RowAt { row: at.row + i, ..at }, text));
            }
        }
        assert_eq!(expected.next(), None);
        let (at, text) = &places[from % places.len()];
        let again = shards.chunks(which, *at).next().unwrap().unwrap();
        assert!(again.at == *at && again.texts[0].as_ref() == Some(text), "from {at:?}");
        for (shard, list) in shards.list(which).iter().enumerate() {
            let here = places.iter().filter(|(at, _)| at.shard == shard).map(|(_, text)| text);
            read_as_a_file(&list.path, here);
        }
    }
}

/// Reads a file as `data ingest` does and as the tasks do.
fn read_as_a_file<'a>(path: &Path, mut expected: impl Iterator<Item = &'a String>) {
    let texts = ParquetTexts::open(path, "text").unwrap();
    let mut rows = table::rows(path).unwrap();
    for group in 0..texts.num_row_groups() {
        let mut values = texts.rows(group, 0).unwrap();
        loop {
            let chunk = values.next_rows(CHUNK_ROWS).unwrap();
            if chunk.is_empty() {
                break;
            }
            for value in chunk {
                let (expected, row) = (expected.next().unwrap(), rows.next().unwrap().unwrap());
                assert!(value.unwrap() == expected.as_bytes() && row.string("text").unwrap() == expected);
            }
        }
    }
    assert!(expected.next().is_none() && rows.next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_by_every_reader(
        documents in corpus(200_000), chars_per_shard in 1..2_000_000usize, from: usize,
    ) {
        round_trip(&documents, chars_per_shard, from);
    }
}

#[test]
fn documents_of_tens_of_megabytes_are_read_by_every_reader() {
    let longest = crate::files::lines::MAX_LINE as usize;
    let documents =
        ["a".repeat(longest), "the same line\n".repeat(1 << 21), String::new(), "猫".repeat(7 << 20)];
    round_trip(&documents, CHARS_PER_SHARD, 1);
    let temp = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&temp.path().join("data"), CHARS_PER_SHARD).unwrap();
    let error = writer.push(Split::Train, &"a".repeat(longest + 1)).unwrap_err().to_string();
    assert!(error.contains("a document is longer than 64 MiB"), "{error}");
}

#[test]
fn many_more_corpora_are_read_by_every_reader() {
    if std::env::var("NANOCHAT_SLOW").is_ok_and(|value| value == "1") {
        let config = ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() };
        proptest!(config, |(documents in corpus(8_000_000), shard in 1..20_000_000usize, from: usize)| {
            round_trip(&documents, shard, from);
        });
    }
}

/// Reads the files of scripts/parity/make_parquet_fixtures.py, which other programs wrote in all their variants.
#[test]
fn files_of_others_are_read_as_they_read_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
    let expected: Vec<_> = table::rows(&folder.join("rows.jsonl")).unwrap().map(Result::unwrap).collect();
    let mut files = 0;
    for path in parquet_files(&folder).unwrap() {
        files += 1;
        let rows: Vec<_> = table::rows(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), expected.len(), "{}", path.display());
        let columns = ["text", "id", "score", "is_good", "tags", "messages", "source"];
        for (row, expected) in rows.iter().zip(&expected) {
            for column in columns {
                assert_eq!(row.get(column), expected.get(column), "{}, {column}", path.display());
            }
        }
        let shards = Shards::open_validation(&path, OnBadShard::Refuse).unwrap();
        let texts: Vec<_> =
            shards.chunks(Split::Val, RowAt::default()).flat_map(|chunk| chunk.unwrap().texts).collect();
        let expected: Vec<_> =
            expected.iter().map(|row| Some(row.get("text")?.as_str()?.to_string())).collect();
        assert_eq!(texts, expected, "{}", path.display());
        for row in 0..20 {
            let from = shards.chunks(Split::Val, RowAt { row, ..RowAt::default() }).next().unwrap().unwrap();
            assert_eq!(from.texts[..], expected[row..20], "{} from row {row}", path.display());
        }
    }
    assert_eq!(files, 19);
    assert!(fs::read_dir(folder).unwrap().count() >= files);
}
