//! Writes the built-in corpus: pretraining shards to `base_data/`, conversations to `chat_data/`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use indicatif::ProgressBar;
use rayon::prelude::*;

use crate::conversation::Conversation;
use crate::files::file_error::{FileError, at};
use crate::files::partial_dir::PartialDir;
use crate::terminal::flag_values;
use crate::text::dataset::{CHARS_PER_SHARD, DatasetError, ShardWriter, Split, Written};
use crate::text::language::TextLanguage;
use crate::world::{self, DEFAULT_CONVERSATIONS, DEFAULT_DOCUMENTS, World};

/// Texts made in parallel before they are written in order.
const BATCH: u64 = 1_024;
/// The number of training texts for each held-out one.
const TEST_EVERY: u64 = 20;

/// Held-out questions of each kind, in both languages: 200 give a share to ±3.5 % near 90 %.
const QUESTIONS_PER_KIND: usize = 200;
/// Two-step word problems beside the conversations, for training and for tests: enough for reinforcement
/// learning to meet none twice, and 400 give pass@1 to ±5 %.
const PROBLEMS: [u64; 2] = [4_000, 400];

/// The options of the built-in corpus; equal options make equal files.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct MakeOptions {
    /// Another seed is another world: other people, towns and facts
    #[arg(long, value_parser = flag_values::seed, default_value_t = 42)]
    pub seed: u64,
    /// The assistant's name
    #[arg(long, default_value = "nanochat", value_parser = name)]
    pub name: String,
    /// Language of all that is made
    #[arg(long, value_enum, default_value = "mix")]
    pub lang: TextLanguage,
    /// Pretraining documents; a twentieth more are held out for validation
    #[arg(long, value_parser = flag_values::whole::<u64, 1, 1_000_000_000>, default_value_t = DEFAULT_DOCUMENTS)]
    pub documents: u64,
    /// Conversations for finetuning; a twentieth more are held out for tests
    #[arg(long, value_parser = flag_values::whole::<u64, 1, 1_000_000_000>, default_value_t = DEFAULT_CONVERSATIONS)]
    pub conversations: u64,
}

/// The counts of what [`make`] wrote; None for a folder that existed already and was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub documents: Option<Written>,
    /// Conversations for training and for tests.
    pub conversations: Option<[u64; 2]>,
}

/// Writes whichever of `base_data/` and `chat_data/` is missing in `base_dir`, so that the same command continues after
/// a kill; returns an error if neither is missing. A folder is either complete or absent. Progress counts texts.
pub fn make(options: &MakeOptions, base_dir: &Path, progress: &ProgressBar) -> Result<Made, DatasetError> {
    let world = World::new(options.seed, &options.name, options.lang);
    let MakeOptions { documents, conversations, .. } = *options;
    let texts = [documents, conversations].map(|n| n + n.div_ceil(TEST_EVERY)).iter().sum::<u64>();
    progress.set_length(texts + PROBLEMS.iter().sum::<u64>());
    let base = unless_there(write_documents(&world, documents, &base_dir.join("base_data"), progress))?;
    let chat_dir = base_dir.join("chat_data");
    let chat = unless_there(write_conversations(&world, conversations, &chat_dir, progress))?;
    if base.is_none() && chat.is_none() {
        return Err(FileError::NotEmpty { path: base_dir.join("base_data") }.into());
    }
    Ok(Made { documents: base, conversations: chat })
}

fn unless_there<T>(written: Result<T, DatasetError>) -> Result<Option<T>, DatasetError> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(DatasetError::File(FileError::NotEmpty { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_documents(
    world: &World,
    n: u64,
    dir: &Path,
    progress: &ProgressBar,
) -> Result<Written, DatasetError> {
    let mut writer = ShardWriter::create(dir, CHARS_PER_SHARD)?;
    for (from, to, n) in
        [(world::Split::Train, Split::Train, n), (world::Split::Test, Split::Val, n.div_ceil(TEST_EVERY))]
    {
        in_order(n, |index| world.document(from, index), |text| writer.push(to, &text), progress)?;
    }
    writer.finish()
}

/// One conversation a line, an array of {role, content}; word problems likewise; and the held-out questions.
fn write_conversations(
    world: &World,
    n: u64,
    dir: &Path,
    progress: &ProgressBar,
) -> Result<[u64; 2], DatasetError> {
    let dir = PartialDir::create(dir)?;
    let counts = [n, n.div_ceil(TEST_EVERY)];
    let write = |name: &str, n: u64, make: &(dyn Fn(u64) -> Conversation + Sync)| {
        let path = dir.path().join(name);
        let mut file = BufWriter::new(File::create(&path).map_err(at(&path))?);
        let line = |index| serde_json::to_string(&make(index).messages).expect("strings are valid JSON");
        in_order(n, line, |line| writeln!(file, "{line}").map_err(at(&path)), progress)?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(at(&path))
    };
    for (split, i, suffix) in [(world::Split::Train, 0, "train"), (world::Split::Test, 1, "test")] {
        write(&format!("{suffix}.jsonl"), counts[i], &|index| world.conversation(split, index))?;
        write(&format!("problems_{suffix}.jsonl"), PROBLEMS[i], &|index| world.problem(split, index))?;
    }
    let path = dir.path().join("questions.jsonl");
    let mut file = BufWriter::new(File::create(&path).map_err(at(&path))?);
    for question in world.questions(QUESTIONS_PER_KIND) {
        let line = serde_json::to_string(&question).expect("strings are valid JSON");
        writeln!(file, "{line}").map_err(at(&path))?;
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(at(&path))?;
    dir.commit()?;
    Ok(counts)
}

/// Makes texts 0..n on all cores and takes them in order, some at a time.
fn in_order(
    n: u64,
    make: impl Fn(u64) -> String + Sync,
    mut take: impl FnMut(String) -> Result<(), FileError>,
    progress: &ProgressBar,
) -> Result<(), FileError> {
    for start in (0..n).step_by(BATCH as usize) {
        let end = n.min(start + BATCH);
        let texts: Vec<String> = (start..end).into_par_iter().map(&make).collect();
        texts.into_iter().try_for_each(&mut take)?;
        progress.inc(end - start);
    }
    Ok(())
}

fn name(value: &str) -> Result<String, String> {
    let fits = (1..=40).contains(&value.trim().chars().count()) && !value.contains(char::is_control);
    if fits { Ok(value.trim().to_owned()) } else { Err("must be 1 to 40 characters on one line".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Examples;
    use crate::files::json_records::JsonPlace;
    use crate::files::lines::BadLines;
    use crate::text::dataset::{OnBadShard, Shards};

    #[test]
    fn a_corpus_is_made_once_and_what_is_missing_is_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let base_dir = temp.path().join("base");
        let (name, lang) = ("小纳".to_string(), TextLanguage::Mix);
        let options = MakeOptions { seed: 1, name, lang, documents: 50, conversations: 30 };
        let run = || make(&options, &base_dir, &ProgressBar::hidden());
        let made = run().unwrap();
        let documents = made.documents.unwrap();
        assert_eq!((documents.train_documents, documents.val_documents, documents.shards), (50, 3, 2));
        assert_eq!(made.conversations, Some([30, 2]));

        let shards = Shards::open(&base_dir.join("base_data"), OnBadShard::Refuse).unwrap();
        let world = World::new(1, "小纳", TextLanguage::Mix);
        let train: Vec<String> = shards.texts(Split::Train).map(Result::unwrap).collect();
        let expected: Vec<String> = (0..50).map(|i| world.document(world::Split::Train, i)).collect();
        assert_eq!(train, expected);
        let chat = base_dir.join("chat_data/train.jsonl");
        for (i, read) in Examples::open(&chat, BadLines::Fail).unwrap().enumerate() {
            let (place, example) = read.unwrap();
            assert_eq!(place, JsonPlace { line: i + 1, element: None });
            assert_eq!(example, world.conversation(world::Split::Train, i as u64).into());
        }

        assert!(run().unwrap_err().to_string().contains("base_data already exists"));
        let bytes = std::fs::read(&chat).unwrap();
        std::fs::remove_dir_all(base_dir.join("chat_data")).unwrap();
        assert_eq!(run().unwrap(), Made { documents: None, conversations: Some([30, 2]) });
        assert_eq!(std::fs::read(&chat).unwrap(), bytes);
    }
}
