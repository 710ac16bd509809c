use std::fs;
use std::path::Path;

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::writer::SerializedFileWriter;

use super::*;

/// Writes a corpus of numbered documents; every tenth is for validation.
fn write(dir: &Path, documents: usize, chars_per_shard: usize) -> Written {
    let mut writer = ShardWriter::create(dir, chars_per_shard).unwrap();
    for i in 0..documents {
        let split = if i % 10 == 0 { Split::Val } else { Split::Train };
        writer.push(split, &document(i)).unwrap();
    }
    writer.finish().unwrap()
}

fn document(i: usize) -> String {
    format!("{i} 从前有一只猫，住在山里。\0 The end.\n")
}

fn read(shards: &Shards, split: Split) -> Vec<String> {
    shards.texts(split).collect::<Result<_, _>>().unwrap()
}

fn open_error(dir: &Path) -> String {
    Shards::open(dir, OnBadShard::Refuse).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let written = write(&dir, 5_000, 40_000);
    let expected = Written { shards: 5, train_documents: 4_500, val_documents: 500, chars: written.chars };
    assert_eq!(written, expected);
    let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
    let (val, train): (Vec<usize>, Vec<usize>) = (0..5_000).partition(|i| i % 10 == 0);
    assert_eq!(read(&shards, Split::Train), train.into_iter().map(document).collect::<Vec<_>>());
    assert_eq!(read(&shards, Split::Val), val.into_iter().map(document).collect::<Vec<_>>());
    assert!(!temp.path().join("data.partial").exists());
}

#[test]
fn folders_that_are_no_corpus_are_refused_with_a_sentence() {
    let temp = tempfile::tempdir().unwrap();
    assert!(open_error(&temp.path().join("missing")).contains("missing"));
    assert!(open_error(temp.path()).contains("no .parquet shards"));
    let dir = temp.path().join("data");
    write(&dir, 100, 1_000_000);
    fs::remove_file(dir.join("shard_00001.parquet")).unwrap();
    assert!(open_error(&dir).contains("two are needed"));
    let full = ShardWriter::create(&dir, 10).err().unwrap().to_string();
    assert!(full.contains("not empty"), "{full}");
}

#[test]
fn a_corpus_without_both_splits_is_not_written() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let mut writer = ShardWriter::create(&dir, 1_000).unwrap();
    writer.push(Split::Train, "alone").unwrap();
    assert!(matches!(writer.finish(), Err(DatasetError::TooFewDocuments { train: 1, val: 0, .. })));
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_bad_shard_is_refused_or_skipped() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    write(&dir, 5_000, 40_000);
    let bad = dir.join("shard_00001.parquet");
    let good = fs::read(&bad).unwrap();
    let contents: [&[u8]; 4] =
        [b"", b"not parquet at all", &good[..good.len() / 2], b"PAR1\xff\xff\xff\x7fPAR1"];
    for content in contents {
        fs::write(&bad, content).unwrap();
        assert!(open_error(&dir).contains("shard_00001.parquet"));
        let shards = Shards::open(&dir, OnBadShard::Skip).unwrap();
        let texts = read(&shards, Split::Train);
        assert!(texts.len() < 4_500 && texts.last() == Some(&document(4_999)));
    }
    fs::write(&bad, &good).unwrap();
    fs::write(dir.join("shard_00004.parquet"), b"").unwrap();
    let error = Shards::open(&dir, OnBadShard::Skip).unwrap_err();
    assert!(matches!(error, DatasetError::BadValidationShard { .. }), "{error}");
}

#[test]
fn a_shard_that_vanishes_or_rots_after_opening_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    write(&dir, 5_000, 40_000);
    let victim = dir.join("shard_00000.parquet");
    for policy in [OnBadShard::Refuse, OnBadShard::Skip] {
        let shards = Shards::open(&dir, policy).unwrap();
        let bytes = fs::read(&victim).unwrap();
        let mut rotten = bytes.clone();
        rotten[4..200].fill(0x5a); // the first page; the footer still reads
        for content in [Some(&rotten), None] {
            match content {
                Some(content) => fs::write(&victim, content).unwrap(),
                None => fs::remove_file(&victim).unwrap(),
            }
            let outcome: Result<Vec<String>, DatasetError> = shards.texts(Split::Train).collect();
            match policy {
                OnBadShard::Refuse => {
                    assert!(outcome.unwrap_err().to_string().contains("shard_00000.parquet"));
                }
                OnBadShard::Skip => assert!(outcome.unwrap().len() < 4_500),
            }
        }
        fs::write(&victim, bytes).unwrap();
    }
}

/// Other programs write nullable columns, and their texts may be invalid UTF-8.
#[test]
fn rows_without_text_are_left_out_but_keep_their_place() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    write(&dir, 100, 1_000_000);
    let schema = "message m { REQUIRED INT32 id; OPTIONAL BYTE_ARRAY text (STRING); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let file = fs::File::create(dir.join("shard_00000.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&[1, 2, 3, 4], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts: [ByteArray; 3] = ["猫".into(), vec![0xff, 0xfe].into(), "\0".into()];
    column.typed::<ByteArrayType>().write_batch(&texts, Some(&[1, 0, 1, 1]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();

    let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
    assert_eq!(read(&shards, Split::Train), ["猫", "\0"]);
    let from = RowAt { row: 1, ..RowAt::default() };
    let chunk = shards.chunks(Split::Train, from).next().unwrap().unwrap();
    assert_eq!((chunk.at, chunk.texts), (from, vec![None, None, Some("\0".into())]));
}

/// Damage anywhere results in texts or an error, never in an escaping panic or an endless loop.
#[test]
fn random_damage_never_panics() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    write(&dir, 300, 1_000_000);
    let path = dir.join("shard_00000.parquet");
    let good = fs::read(&path).unwrap();
    let mut rng = nanochat_tensor::Rng::new(&[1]);
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(4) {
            let i = if rng.below(2) == 0 { rng.below(bytes.len()) } else { bytes.len() - 1 - rng.below(200) };
            bytes[i] = rng.next_u64() as u8;
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(shards) = Shards::open(&dir, OnBadShard::Refuse) {
            let _ = shards.texts(Split::Train).collect::<Vec<_>>();
        }
    }
}

#[test]
fn validation_may_be_a_single_file_and_a_pass_has_a_length() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    write(&dir, 5_000, 40_000);
    let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
    let file = dir.join("shard_00004.parquet");
    let alone = Shards::open_validation(&file, OnBadShard::Refuse).unwrap();
    assert_eq!(read(&alone, Split::Val), read(&shards, Split::Val));
    let one = temp.path().join("one");
    fs::create_dir(&one).unwrap();
    fs::rename(&file, one.join("any name.parquet")).unwrap();
    let alone = Shards::open_validation(&one, OnBadShard::Refuse).unwrap();
    assert_eq!(read(&alone, Split::Val).len(), 500);
    let error = Shards::open_validation(&temp.path().join("none"), OnBadShard::Refuse).unwrap_err();
    assert!(error.to_string().contains("none cannot be read"), "{error}");

    let mut last = -1.0;
    for chunk in shards.chunks(Split::Train, RowAt::default()) {
        let passed = shards.passed(Split::Train, chunk.unwrap().at);
        assert!(passed > last, "{passed} after {last}");
        last = passed;
    }
    assert!((0.95..1.0).contains(&last), "{last}");
}
