use proptest::prelude::*;

use super::*;
use crate::ranks::mine_of;
use crate::testing::{on_ranks, tokenizer};
use crate::text::dataset::{OnBadShard, RowAt, ShardWriter, Share};

fn corpus(documents: usize) -> (tempfile::TempDir, Shards) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let mut writer = ShardWriter::create(&dir, 60_000).unwrap();
    for i in 0..documents {
        let split = if i % 10 == 0 { Split::Val } else { Split::Train };
        writer.push(split, &"字母 word ".repeat(i % 7)).unwrap();
    }
    writer.finish().unwrap();
    let shards = Shards::open(&dir, OnBadShard::Refuse).unwrap();
    (temp, shards)
}

fn loader(shards: &Shards, shape: [usize; 2], from: Option<&LoaderState>) -> DataLoader {
    on_rank(shards, shape, from, &Comm::alone())
}

fn on_rank(shards: &Shards, shape: [usize; 2], from: Option<&LoaderState>, comm: &Comm) -> DataLoader {
    DataLoader::new(shards, Split::Train, &tokenizer(), shape, from, comm).unwrap()
}

/// Returns all tokens of one epoch, computed in the simplest way.
fn epoch_tokens(shards: &Shards) -> Vec<u32> {
    let tokenizer = tokenizer();
    let mut tokens = Vec::new();
    for chunk in shards.chunks(Split::Train, RowAt::default()) {
        for text in chunk.unwrap().texts {
            tokens.push(tokenizer.special("<|bos|>").unwrap());
            tokens.extend(tokenizer.encode(&text.unwrap()));
        }
    }
    tokens
}

#[test]
fn batches_are_the_stream_cut_in_pieces_and_wrap_around() {
    let (_temp, shards) = corpus(5_000);
    let stream = epoch_tokens(&shards);
    let mut loader = loader(&shards, [3, 700], None);
    let mut expected = stream.iter().cycle().copied();
    let mut taken = 0;
    while taken < stream.len() * 5 / 2 {
        let batch = loader.next_batch().unwrap();
        let piece: Vec<u32> = expected.by_ref().take(2_101).collect();
        assert_eq!(batch.inputs, piece[..2_100]);
        assert_eq!(batch.targets, piece[1..]);
        assert_eq!((batch.shape, batch.weights.len()), ([3, 700], 2_100));
        taken += 2_101;
    }
    assert_eq!(loader.state().sources[0].epoch, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_resumed_loader_goes_on_exactly(
        stops in prop::collection::vec(0usize..40, 1..5),
        t in 1usize..900,
    ) {
        let (_temp, shards) = corpus(4_500);
        let mut straight = loader(&shards, [2, t], None);
        let mut resumed = loader(&shards, [2, t], None);
        for stop in stops {
            for _ in 0..stop {
                prop_assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
            }
            let saved = serde_json::to_string(&resumed.state()).unwrap();
            resumed = loader(&shards, [2, t], Some(&serde_json::from_str(&saved).unwrap()));
            prop_assert_eq!(straight.state(), resumed.state());
        }
        prop_assert_eq!(straight.next_batch().unwrap(), resumed.next_batch().unwrap());
    }
}

#[test]
fn ranks_train_on_every_batch_once_whoever_resumes() {
    let (_temp, shards) = corpus(4_500);
    let mut alone = loader(&shards, [2, 300], None);
    let mut state = alone.state();
    // Five micro-batches a step: no number of ranks divides them, and of eight ranks three get none.
    for world in [1, 2, 3, 4, 8, 4, 1, 3] {
        let of_ranks = on_ranks(world, |comm| {
            let mut loader = on_rank(&shards, [2, 300], Some(&state), &comm);
            let step = |_| mine_of(&comm, (0..5).map(|_| loader.next_batch())).collect();
            let steps = (0..4).map(step).collect::<Result<Vec<Vec<Batch>>, DatasetError>>().unwrap();
            (steps, loader.state())
        });
        for step in 0..4 {
            for i in 0..5 {
                let batch = &of_ranks[i % world].0[step][i / world];
                assert_eq!(*batch, alone.next_batch().unwrap(), "micro-batch {i} of {world} ranks");
            }
        }
        assert!(of_ranks.iter().all(|(_, after)| *after == alone.state()));
        state = alone.state();
    }
}

#[test]
fn ranks_read_parts_that_have_no_row_in_common() {
    let (_temp, shards) = corpus(12_000);
    let rows = |share: Share| -> Vec<RowAt> {
        let chunks = shards.chunks_of(Split::Train, RowAt::default(), share).map(Result::unwrap);
        chunks.flat_map(|c| (0..c.texts.len()).map(move |i| RowAt { row: c.at.row + i, ..c.at })).collect()
    };
    let all = rows(Share { rank: 0, world: 1 });
    for world in [2, 3, 8, 40] {
        let parts: Vec<Vec<RowAt>> = (0..world).map(|rank| rows(Share { rank, world })).collect();
        assert!(parts.iter().all(|part| part.len() <= all.len().div_ceil(world) + 2_048));
        let mut together = parts.concat();
        together.sort();
        assert_eq!(together, all, "{world} ranks");
    }
}

/// The text before the damage is used; all ranks leave out the rest of the shard.
#[test]
fn ranks_leave_out_what_one_of_them_cannot_read() {
    let (temp, whole) = corpus(12_000);
    let stream = |shards: &Shards, comm: &Comm| -> Vec<u32> {
        let mut loader = on_rank(shards, [2, 300], None, comm);
        (0..150).flat_map(|_| loader.next_batch().unwrap().inputs).collect()
    };
    let (undamaged, mut beginnings) = (stream(&whole, &Comm::alone()), Vec::new());
    let path = temp.path().join("data/shard_00000.parquet");
    let bytes = std::fs::read(&path).unwrap();
    for damage in (50..1_000).step_by(50) {
        let mut bytes = bytes.clone();
        bytes[damage..damage + 20].fill(0xA5);
        std::fs::write(&path, bytes).unwrap();
        let shards = Shards::open(&temp.path().join("data"), OnBadShard::Skip).unwrap();
        let alone = stream(&shards, &Comm::alone());
        for world in [2, 3, 8] {
            let of_ranks = on_ranks(world, |comm| stream(&shards, &comm));
            assert!(of_ranks.iter().all(|stream| *stream == alone), "{world} ranks, damage at {damage}");
        }
        beginnings.push(alone.iter().zip(&undamaged).take_while(|(a, b)| a == b).count());
    }
    assert!(beginnings.iter().any(|&n| n < 100), "{beginnings:?}");
    assert!(beginnings.iter().any(|&n| 1_000 < n && n < 90_000), "{beginnings:?}");
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let (_temp, shards) = corpus(3_000);
    let new = |from: Option<&LoaderState>| {
        DataLoader::new(&shards, Split::Train, &tokenizer(), [1, 8], from, &Comm::alone())
    };
    let mut state = new(None).unwrap().state();
    state.sources[0].shard = "shard_00099.parquet".into();
    let error = new(Some(&state)).err().unwrap().to_string();
    assert!(error.contains("shard_00099.parquet"), "{error}");
    let twice = LoaderState { sources: [&state.sources[..], &state.sources[..]].concat() };
    let error = new(Some(&twice)).err().unwrap().to_string();
    assert!(error.contains("2 corpora"), "{error}");

    let first = SourceState { shard: "shard_00000.parquet".into(), ..state.sources[0].clone() };
    for changed in
        [SourceState { token: 1_000, ..first.clone() }, SourceState { document: 5_000, token: 1, ..first }]
    {
        let changed = LoaderState { sources: vec![changed] };
        let error = new(Some(&changed)).unwrap().next_batch().unwrap_err();
        assert!(matches!(error, DatasetError::ChangedShard { .. }), "{error}");
    }
}

/// Makes a corpus that repeats one word in documents of different lengths.
fn of_word(root: &std::path::Path, word: &str, documents: usize) -> Shards {
    let dir = root.join(word);
    let mut writer = ShardWriter::create(&dir, 20_000).unwrap();
    for i in 0..documents {
        let split = if i % 10 == 0 { Split::Val } else { Split::Train };
        writer.push(split, &word.repeat(1 + i * i % 60)).unwrap();
    }
    writer.finish().unwrap();
    Shards::open(&dir, OnBadShard::Refuse).unwrap()
}

#[test]
fn a_mixture_keeps_its_weights_and_resumes_exactly() {
    let temp = tempfile::tempdir().unwrap();
    let corpora = [(of_word(temp.path(), "a", 2_000), 0.7), (of_word(temp.path(), "b", 300), 0.3)];
    let mixed = |from: Option<&LoaderState>| {
        DataLoader::mixed(&corpora, Split::Train, &tokenizer(), [2, 333], from, &Comm::alone()).unwrap()
    };
    let (mut straight, mut resumed) = (mixed(None), mixed(None));
    let (mut a, mut b) = (0, 0);
    for _ in 0..150 {
        let saved = serde_json::to_string(&resumed.state()).unwrap();
        resumed = mixed(Some(&serde_json::from_str(&saved).unwrap()));
        assert_eq!(straight.state(), resumed.state());
        let batch = straight.next_batch().unwrap();
        assert_eq!(batch, resumed.next_batch().unwrap());
        a += batch.inputs.iter().filter(|id| **id == u32::from(b'a')).count();
        b += batch.inputs.iter().filter(|id| **id == u32::from(b'b')).count();
    }
    let share = a as f64 / (a + b) as f64;
    assert!((share - 0.7).abs() < 0.01, "{share}");
    assert!(straight.state().sources[1].epoch >= 2, "the smaller corpus is gone through again");
}

#[test]
fn a_corpus_of_nothing_but_damage_ends() {
    let (temp, _) = corpus(2_000);
    let shards = Shards::open(&temp.path().join("data"), OnBadShard::Skip).unwrap();
    for i in 0..10 {
        let path = temp.path().join(format!("data/shard_{i:05}.parquet"));
        if path.exists() {
            std::fs::write(path, b"PAR1").unwrap();
        }
    }
    let error = loader(&shards, [1, 8], None).next_batch().unwrap_err();
    assert!(matches!(error, DatasetError::Empty { .. }), "{error}");
}
