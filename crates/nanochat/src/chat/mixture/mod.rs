//! The training data of a chat stage: a list of tasks with limits, repeats and weights, shuffled into one sequence.
//!
//! A mixture is a small TOML file (those built in lie beside this one), or the same written as flags:
//!
//! ```toml
//! [[train]]
//! data = "chat.jsonl"    # conversations, one a line
//! repeat = 2             # gone through twice in an epoch; 0.5: the first half
//! [[train]]
//! data = "pairs.tsv"     # translations: a column a language, asked for both ways
//! limit = 10_000         # the first so many only
//! weight = 0.5           # its tokens count half in the loss
//! [[val]]
//! data = "held_out.jsonl"
//! ```
//!
//! A task that is listed twice counts twice. Conversations are read from disk when needed, so that a mixture takes 8
//! bytes of memory per conversation.

mod pairs;
mod recipe;
mod spool;
mod zh_arithmetic;

use std::path::Path;

use nanochat_tensor::Rng;
use serde::{Deserialize, Serialize};

use crate::chat::reward::Reward;
use crate::chat::tasks::{self, Folders, Grading, Split};
use crate::conversation::{Conversation, Example, ExamplesError};
use crate::files::file_error::FileError;
use crate::files::json;
use crate::files::json_records::JsonRecords;
use crate::files::lines::BadLines;
pub use recipe::one_line;
use recipe::{Entry, parse_flag, read_recipe};

/// The first part of the keys of the shuffles' random streams.
const SHUFFLE: u64 = 1;

/// Conversations by index, not all in memory.
pub trait Conversations: Send + Sync {
    fn len(&self) -> usize;

    fn get(&self, index: usize) -> Result<Conversation, FileError>;

    /// A conversation with the weights that its data gives it.
    fn example(&self, index: usize) -> Result<Example, FileError> {
        self.get(index).map(Example::from)
    }

    /// Returns the number of conversations with weights other than 1.
    fn weighed(&self) -> usize {
        0
    }

    /// Returns sentences about parts of the data that are not used.
    fn sentences(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether `answer` is right, if these conversations have a grading of their own.
    fn grade(&self, _index: usize, _answer: &str) -> Result<Option<bool>, MixtureError> {
        Ok(None)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Conversations for Box<dyn tasks::Task> {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn get(&self, index: usize) -> Result<Conversation, FileError> {
        Ok(self.conversation(index))
    }

    fn sentences(&self) -> Vec<String> {
        self.note().map(|note| format!("{}: {note}", self.name())).into_iter().collect()
    }

    fn grade(&self, index: usize, answer: &str) -> Result<Option<bool>, MixtureError> {
        let graded = (self.kind() != Grading::Talk).then(|| self.as_ref().grade(index, answer)).transpose();
        graded.map_err(|error| bad(self.name(), error.to_string()))
    }
}

impl Conversations for Vec<Conversation> {
    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, index: usize) -> Result<Conversation, FileError> {
        Ok(self[index].clone())
    }
}

/// The flags for the training data of a chat stage.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct MixtureArgs {
    /// Mixture to train on: world (the built-in corpus), nanochat (its public data sets), or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "world")]
    pub mixture: String,
    /// Train on this instead: a .json or .jsonl file of conversations, a .tsv file of translations, or a task by name;
    /// may be repeated. Options follow after commas: limit, start, repeat, weight, reward, as in
    /// chat.jsonl,limit=1000,repeat=2
    #[arg(long, value_name = "TASK")]
    pub data: Vec<String>,
    /// Validate on this instead of the mixture's own data; written like --data
    #[arg(long, value_name = "TASK")]
    pub val_data: Vec<String>,
    /// How to treat a conversation that cannot be used: fail, or skip it and say how many were skipped
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub bad_lines: BadLines,
}

/// Why there is nothing to learn from a mixture.
#[derive(Debug, thiserror::Error)]
pub enum MixtureError {
    #[error("the mixture {mixture} cannot be used: {reason}")]
    Unusable { mixture: String, reason: String },
    #[error(
        "the run was started with {saved} conversations, but now there are {found}; \
         use the data and the sequence length it was started with"
    )]
    OtherConversations { saved: usize, found: usize },
    #[error(transparent)]
    Examples(#[from] ExamplesError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// All conversations of one epoch.
pub struct Mixture {
    tasks: Vec<MixtureTask>,
    /// (task, index in it) of every conversation, before shuffling.
    items: Vec<(u32, u32)>,
}

struct MixtureTask {
    conversations: Box<dyn Conversations>,
    weight: f32,
    reward: Reward,
}

impl MixtureArgs {
    /// The mixtures to learn from and to measure on (`val` may be empty). `stage` is mid, sft or rl; what files
    /// of the mixture need in temporary space lies in `base_dir`.
    pub fn open(&self, stage: &str, base_dir: &Path) -> Result<[Mixture; 2], MixtureError> {
        // What flags replace is not even read.
        let (recipe, folder) = match self.data.is_empty() || self.val_data.is_empty() {
            true => read_recipe(&self.mixture, stage, base_dir)?,
            false => Default::default(),
        };
        let open = |flags: &[String], entries: Vec<Entry>, split: Split| {
            let (entries, folder) = match flags {
                [] => (entries, folder.as_path()),
                flags => {
                    (flags.iter().map(|flag| parse_flag(flag)).collect::<Result<_, _>>()?, Path::new(""))
                }
            };
            Mixture::open(&entries, folder, base_dir, split, self.bad_lines)
        };
        let val = if self.data.is_empty() { recipe.val } else { Vec::new() };
        let [train, val] =
            [open(&self.data, recipe.train, Split::Train)?, open(&self.val_data, val, Split::Test)?];
        match train.is_empty() {
            true => Err(bad(&self.mixture, "it has no conversations to learn from".into())),
            false => Ok([train, val]),
        }
    }
}

impl Mixture {
    /// Makes a mixture of one task.
    pub fn of(conversations: impl Conversations + 'static) -> Mixture {
        let items = (0..conversations.len() as u32).map(|index| (0, index)).collect();
        Mixture {
            tasks: vec![MixtureTask {
                conversations: Box::new(conversations),
                weight: 1.0,
                reward: Reward::default(),
            }],
            items,
        }
    }

    fn open(
        entries: &[Entry],
        folder: &Path,
        base_dir: &Path,
        split: Split,
        bad_lines: BadLines,
    ) -> Result<Mixture, MixtureError> {
        let mut mixture = Mixture { tasks: Vec::new(), items: Vec::new() };
        for entry in entries {
            if entry.optional && is_file(&entry.data) && !folder.join(&entry.data).exists() {
                continue;
            }
            let repeats = (0.0..=1e4).contains(&entry.repeat);
            if !(repeats && (1e-6..=1e4).contains(&entry.weight)) {
                let reason = "repeat must be 0 to 10000, and weight 0.000001 to 10000".to_string();
                return Err(bad(&entry.data, reason));
            }
            let conversations = open_task(entry, folder, base_dir, split, bad_lines)?;
            mixture.add(entry, conversations)?;
        }
        Ok(mixture)
    }

    fn add(&mut self, entry: &Entry, conversations: Box<dyn Conversations>) -> Result<(), MixtureError> {
        let there = conversations.len();
        let n = entry.limit.unwrap_or(usize::MAX).min(there.saturating_sub(entry.start));
        if n == 0 {
            return Err(bad(&entry.data, format!("nothing is left of its {there} conversations")));
        }
        let task = self.tasks.len() as u32;
        let total = (n as f64 * entry.repeat).round() as usize;
        self.items.extend((0..total).map(|i| (task, (entry.start + i % n) as u32)));
        self.tasks.push(MixtureTask { conversations, weight: entry.weight as f32, reward: entry.reward });
        Ok(())
    }

    /// Returns the number of conversations in an epoch, repeats counted.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// An error if a run that was started with so many conversations cannot go on with these.
    pub fn check_same(&self, saved: usize) -> Result<(), MixtureError> {
        let found = self.len();
        if found == saved { Ok(()) } else { Err(MixtureError::OtherConversations { saved, found }) }
    }

    /// The order of an epoch: a permutation of 0..len that follows from seed and epoch.
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        Rng::new(&[seed, SHUFFLE, epoch]).shuffle(&mut order);
        order
    }

    /// A conversation, and how much its tokens count.
    pub fn get(&self, index: usize) -> Result<Example, MixtureError> {
        let (task, index) = self.items[index];
        let MixtureTask { conversations, weight, .. } = &self.tasks[task as usize];
        let example = conversations.example(index as usize)?;
        Ok(Example { weight: example.weight * weight, ..example })
    }

    /// Whether any conversation has a weight other than 1.
    pub fn is_weighed(&self) -> bool {
        self.tasks.iter().any(|task| task.weight != 1.0 || task.conversations.weighed() > 0)
    }

    /// Returns a sentence for each part of the data that is not used.
    pub fn sentences(&self) -> Vec<String> {
        self.tasks.iter().flat_map(|task| task.conversations.sentences()).collect()
    }

    /// 1 for a right answer to a conversation's last question, else 0. None if its own answer does not say what is
    /// right.
    pub fn reward(&self, index: usize, answer: &str) -> Result<Option<f32>, MixtureError> {
        let (task, index) = self.items[index];
        let MixtureTask { conversations, reward, .. } = &self.tasks[task as usize];
        Ok(match conversations.grade(index as usize, answer)? {
            Some(right) => Some(if right { 1.0 } else { 0.0 }),
            None => reward.gold(&conversations.get(index as usize)?).map(|gold| reward.of(answer, &gold)),
        })
    }
}

fn bad(mixture: &str, reason: String) -> MixtureError {
    MixtureError::Unusable { mixture: mixture.to_string(), reason }
}

fn is_file(data: &str) -> bool {
    data.contains(".json") || data.contains(".tsv")
}

/// Opens a task: a file by its extension, anything else by its name.
fn open_task(
    entry: &Entry,
    folder: &Path,
    base_dir: &Path,
    split: Split,
    bad_lines: BadLines,
) -> Result<Box<dyn Conversations>, MixtureError> {
    let path = folder.join(&entry.data);
    let task = |name: &str| {
        let folders = Folders { bad_lines, ..Folders::of(base_dir) };
        let opened = tasks::open(name, split, &folders);
        opened
            .map_err(|error| bad(name, format!("{error}; or zh-arithmetic, or a .json, .jsonl or .tsv file")))
    };
    Ok(match entry.data.as_str() {
        data if data.contains(".json") && has_questions(&path)? => {
            Box::new(tasks::open_file(&path, bad_lines).map_err(|error| bad(data, error.to_string()))?)
        }
        data if data.contains(".json") => Box::new(spool::JsonFile::open(&path, bad_lines, base_dir)?),
        data if data.contains(".tsv") => Box::new(pairs::Pairs::open(&path)?),
        "zh-arithmetic" => Box::new(zh_arithmetic::ZhArithmetic { split }),
        name => Box::new(task(name)?),
    })
}

/// Whether a file holds questions with answers to be graded, as [`crate::tasks`] reads them, and not conversations.
fn has_questions(path: &Path) -> Result<bool, FileError> {
    // What cannot be read is named by the reading that follows.
    let first = JsonRecords::open(path)?.find_map(|record| json::parse(&record.ok()?.1).ok());
    let first = first.map_or(serde_json::Value::Null, |(value, _)| value);
    Ok(first.get("question").is_some() || first.get("answer").is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn args(mixture: &str, data: &[&str]) -> MixtureArgs {
        MixtureArgs {
            mixture: mixture.into(),
            data: data.iter().map(|data| data.to_string()).collect(),
            val_data: Vec::new(),
            bad_lines: BadLines::Fail,
        }
    }

    fn file(folder: &Path, name: &str, n: usize) -> String {
        let line = |i| {
            format!(
                "[{{\"role\":\"user\",\"content\":\"{name} {i}\"}},{{\"role\":\"assistant\",\"content\":\"a\"}}]\n"
            )
        };
        let path = folder.join(name);
        fs::write(&path, (0..n).map(line).collect::<String>()).unwrap();
        path.to_str().unwrap().into()
    }

    fn questions(mixture: &Mixture) -> Vec<String> {
        (0..mixture.len()).map(|i| mixture.get(i).unwrap().conversation.messages[0].content.text()).collect()
    }

    #[test]
    fn tasks_have_limits_repeats_and_weights() {
        let temp = tempfile::tempdir().unwrap();
        let (a, _) = (file(temp.path(), "a.jsonl", 4), file(temp.path(), "b.jsonl", 3));
        fs::write(temp.path().join("pairs.tsv"), "English\t中文\nI eat.\t我吃。\n").unwrap();
        let toml = "[[train]]\ndata = \"a.jsonl\"\nstart = 1\nlimit = 2\nrepeat = 1.5\n\
            [[train]]\ndata = \"b.jsonl\"\n[[train]]\ndata = \"b.jsonl\"\nlimit = 1\nweight = 0.25\n\
            [[train]]\ndata = \"missing.jsonl\"\noptional = true\n[[val]]\ndata = \"pairs.tsv\"\n";
        let path = temp.path().join("mix.toml");
        fs::write(&path, toml).unwrap();
        let [train, val] = args(path.to_str().unwrap(), &[]).open("sft", temp.path()).unwrap();
        let expected =
            ["a.jsonl 1", "a.jsonl 2", "a.jsonl 1", "b.jsonl 0", "b.jsonl 1", "b.jsonl 2", "b.jsonl 0"];
        assert_eq!(questions(&train), expected);
        assert_eq!((train.get(0).unwrap().weight, train.get(6).unwrap().weight), (1.0, 0.25));
        assert_eq!(questions(&val), ["翻译成中文：I eat.", "Translate into English: 我吃。"]);
        let mut order = train.order(42, 3);
        assert_eq!((order.clone(), train.order(42, 4) == order), (train.order(42, 3), false));
        order.sort();
        assert_eq!(order, (0..7).collect::<Vec<_>>());

        // Flags replace the file's tasks, and its validation with them.
        let [train, val] = args("never read", &[&format!("{a},limit=2,repeat=2"), "zh-arithmetic,limit=3"])
            .with_val(&a, temp.path());
        assert_eq!((train.len(), val.len()), (7, 4));
    }

    impl MixtureArgs {
        fn with_val(mut self, val: &str, base_dir: &Path) -> [Mixture; 2] {
            self.val_data = vec![val.into()];
            self.open("sft", base_dir).unwrap()
        }
    }

    /// Linux allows any bytes in a file name.
    #[cfg(target_os = "linux")]
    #[test]
    fn files_lie_in_a_folder_of_any_name() {
        use std::os::unix::ffi::OsStrExt;
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().join(std::ffi::OsStr::from_bytes(b"d\xff"));
        fs::create_dir_all(base.join("chat_data")).unwrap();
        for name in ["chat_data/problems_train.jsonl", "chat_data/problems_test.jsonl"] {
            let line = |i| format!("{{\"question\": \"q {i}\", \"answer\": \"e\"}}\n");
            fs::write(base.join(name), (0..260).map(line).collect::<String>()).unwrap();
        }
        let [train, val] = args("world", &[]).open("rl", &base).unwrap();
        assert_eq!((train.len(), val.len()), (10, 260));
    }

    #[test]
    fn bad_mixtures_are_named_with_what_is_wrong() {
        let temp = tempfile::tempdir().unwrap();
        let a = file(temp.path(), "a.jsonl", 4);
        let toml = temp.path().join("bad.toml");
        let name = toml.to_str().unwrap();
        for (text, parts) in [
            ("[[train]\n", ["bad.toml", "line 1"]),
            ("[[train]]\nlimit = 3\n", ["bad.toml", "missing field `data`"]),
            ("[[train]]\ndata = \"a.jsonl\"\nrepaet = 2\n", ["line 3", "unknown field `repaet`"]),
            ("[[train]]\ndata = \"a.jsonl\"\nlimit = -3\n", ["line 3", "invalid value"]),
            ("[[train]]\ndata = \"a.jsonl\"\nrepeat = nan\n", ["a.jsonl", "repeat must be"]),
            ("[[train]]\ndata = \"a.jsonl\"\nstart = 4\n", ["a.jsonl", "nothing is left of its 4"]),
            ("[[train]]\ndata = \"b.jsonl\"\n", ["b.jsonl", "No such file"]),
            ("[[train]]\ndata = \"no-task\"\n", ["no-task", "ARC-Easy"]),
            ("[[train]]\ndata = \"poems\"\n", ["poems has no training items", "for testing alone"]),
            ("[[val]]\ndata = \"a.jsonl\"\n", ["bad.toml", "no conversations to learn from"]),
        ] {
            fs::write(&toml, text).unwrap();
            let error = args(name, &[]).open("mid", temp.path()).err().unwrap().to_string();
            assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
        }
        let error = args("no-such", &[]).open("mid", temp.path()).err().unwrap().to_string();
        assert!(error.contains("no-such") && error.contains("world, nanochat"), "{error}");
        for flag in [format!("{a},limit=x"), format!("{a},what=1"), format!("{a},limit")] {
            let error = args("world", &[&flag]).open("mid", temp.path()).err().unwrap().to_string();
            assert!(error.contains("limit=N"), "{error}");
        }
    }
}
