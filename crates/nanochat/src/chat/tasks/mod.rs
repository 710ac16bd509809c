//! Tasks: sets of conversations to train on, and questions whose answers can be graded.
//!
//! A task is found by its name ([`open`]) in the user's folder of data sets, in the layout of the Hugging Face hub
//! (`{folder}/{repository}/{path in it}`) or as the files of the set's own repository. Training and test items come
//! from different files or, if they are generated, from different words; no task uses one for the other.

mod agieval;
mod arc;
mod ceval;
mod cmmlu;
mod custom;
mod exams;
mod files;
mod gsm8k;
mod humaneval;
mod mmlu;
mod multiple_choice;
mod sets;
mod simple_spelling;
mod slice;
mod spelling_bee;
mod talk;
mod words;
mod world;

use std::path::{Path, PathBuf};

pub use exams::{EXAMS, Exam};
pub use gsm8k::{final_answer, parts as gsm8k_parts};
pub use multiple_choice::Question;
pub use slice::TaskSlice;

use crate::conversation::{Content, Conversation, ExamplesError, Message, Role};
use crate::files::file_error::FileError;
use crate::files::lines::BadLines;
use crate::sandbox::SandboxError;
use crate::text::chinese;
pub use crate::world::Split;

/// A set of items 0..len, always the same ones in the same order.
pub trait Task: Send + Sync {
    /// The name in tables, such as `ARC-Easy`.
    fn name(&self) -> &str;

    fn kind(&self) -> Grading;

    fn len(&self) -> usize;

    /// Returns item `i` with its right answer; a prompt is the same without it.
    fn conversation(&self, i: usize) -> Conversation;

    /// Returns the letters to choose from in item `i` of a categorical task.
    fn letters(&self, _i: usize) -> &[String] {
        &[]
    }

    /// Whether `answer` is right: a letter, or all text that the model wrote. Always false for [`Grading::Talk`]. An
    /// error means that it cannot be decided.
    fn grade(&self, _i: usize, _answer: &str) -> Result<bool, TaskError> {
        Ok(false)
    }

    /// Whether `answer` is in the language of item `i`; None if the task does not know.
    fn is_in_its_language(&self, _i: usize, _answer: &str) -> Option<bool> {
        None
    }

    /// Returns a sentence about the items of the set that were left out, if any.
    fn note(&self) -> Option<&str> {
        None
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The score of random guessing, which nanochat's ChatCORE subtracts.
    fn baseline(&self) -> f64 {
        if self.kind() == Grading::Categorical { 0.25 } else { 0.0 }
    }
}

/// The way that a task is put to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grading {
    /// The letter with the highest logit is the answer.
    Categorical,
    /// The model writes an answer.
    Generative,
    /// There is nothing to grade: the task is only for training.
    Talk,
}

/// The tasks whose mean score is ChatCORE.
pub const CHAT_CORE: [&str; 6] = ["ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee"];

/// The names that [`open`] accepts. `world` is the built-in conversations; its kinds of questions are separate tasks.
pub const NAMES: [&str; 25] = [
    "ARC-Easy",
    "ARC-Challenge",
    "MMLU",
    "GSM8K",
    "HumanEval",
    "SpellingBee",
    "SimpleSpelling",
    "SmolTalk",
    "C-Eval",
    "CMMLU",
    "AGIEval",
    "AGIEval-en",
    "AGIEval-zh",
    "poems",
    "idioms",
    "translation-zh",
    "translation-en",
    "world",
    "arithmetic",
    "spelling",
    "counting",
    "facts",
    "identity",
    "problems",
    "FILE.jsonl",
];

/// The folders of task files.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The data sets, one folder each; `{base_dir}/task_data`.
    pub sets: PathBuf,
    /// The built-in world's files, written by `nanochat data make`; `{base_dir}/chat_data`.
    pub world: PathBuf,
    /// Whether generated programs may run without a sandbox.
    pub unconfined: bool,
    /// The treatment of an unusable line of a user's file.
    pub bad_lines: BadLines,
}

impl Folders {
    pub fn of(base_dir: &Path) -> Folders {
        let (sets, world) = (base_dir.join("task_data"), base_dir.join("chat_data"));
        Folders { sets, world, unconfined: false, bad_lines: BadLines::Fail }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("there is no task {name}; choose of {}", NAMES.join(", "))]
    Unknown { name: String },
    #[error("{task} has no {split} items; it is for {} alone", other(split))]
    NoSplit { task: &'static str, split: &'static str },
    #[error("the {split} items of {task} are not in {}: {hint}", folder.display())]
    Missing { task: String, split: &'static str, folder: PathBuf, hint: String },
    #[error("no question of {} has one letter as its answer", path.display())]
    NoLetter { path: PathBuf },
    #[error("{} has no items", path.display())]
    Empty { path: PathBuf },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Examples(#[from] ExamplesError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Opens the task of that name (ignoring case, hyphens and underscores), or a user's file.
pub fn open(name: &str, split: Split, folders: &Folders) -> Result<Box<dyn Task>, TaskError> {
    let sets = folders.sets.as_path();
    let plain: String = name.to_lowercase().chars().filter(|c| !"-_ ".contains(*c)).collect();
    if let Some(kind) =
        chinese::ChineseTask::ALL.into_iter().find(|kind| kind.name().replace('-', "") == plain)
    {
        return Ok(Box::new(multiple_choice::of_chinese(kind, split)?));
    }
    if let Some(kind) = world::kind(&plain) {
        return Ok(Box::new(world::questions(kind, split, &folders.world)?));
    }
    if let Some(part) = plain.strip_prefix("agieval")
        && let Some(task) = agieval::open(part, split, sets)?
    {
        return Ok(Box::new(task));
    }
    Ok(match plain.as_str() {
        "arceasy" => Box::new(arc::open("ARC-Easy", split, sets)?),
        "arcchallenge" => Box::new(arc::open("ARC-Challenge", split, sets)?),
        "mmlu" => Box::new(mmlu::open(split, sets)?),
        "gsm8k" => Box::new(gsm8k::Gsm8k::open(split, sets)?),
        "humaneval" => Box::new(humaneval::HumanEval::open(split, sets, folders.unconfined)?),
        "spellingbee" => Box::new(spelling_bee::SpellingBee::open(split, sets)?),
        "simplespelling" => Box::new(simple_spelling::SimpleSpelling::open(split, sets)?),
        "smoltalk" => Box::new(talk::smoltalk(split, sets)?),
        "ceval" => Box::new(ceval::open(split, sets)?),
        "cmmlu" => Box::new(cmmlu::open(split, sets)?),
        "world" => Box::new(world::talk(split, &folders.world)?),
        _ if name.contains(".json") => custom::open(Path::new(name), folders.bad_lines)?,
        _ => return Err(TaskError::Unknown { name: name.to_string() }),
    })
}

/// Opens a user's file of questions or conversations.
pub fn open_file(path: &Path, bad_lines: BadLines) -> Result<Box<dyn Task>, TaskError> {
    custom::open(path, bad_lines)
}

fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "training",
        Split::Test => "test",
    }
}

fn other(split: &str) -> &'static str {
    if split == "test" { "training" } else { "testing" }
}

/// Returns a conversation of one exchange.
fn exchange(user: impl Into<String>, assistant: Content) -> Conversation {
    let user = Message { role: Role::User, content: Content::Text(user.into()) };
    Conversation { messages: vec![user, Message { role: Role::Assistant, content: assistant }] }
}

#[cfg(test)]
mod tests;
