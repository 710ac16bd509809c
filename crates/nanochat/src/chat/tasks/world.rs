//! The built-in world's conversations, and the held-out questions about it as a task for each kind.

use std::path::Path;

use super::talk::{self, Talk};
use super::{Grading, Split, Task, TaskError};
use crate::conversation::{Content, Conversation, Message, Role};
use crate::files::file_error::FileError;
use crate::files::lines::Lines;
use crate::world::{self, HeldOutQuestion};

pub struct WorldQuestions {
    name: String,
    questions: Vec<HeldOutQuestion>,
}

/// Opens the conversations that `nanochat data make` wrote.
pub fn talk(split: Split, folder: &Path) -> Result<Talk, TaskError> {
    let file = if split == Split::Train { "train.jsonl" } else { "test.jsonl" };
    talk::file("world", &folder.join(file))
}

/// Returns the kind of questions with this name.
pub fn kind(name: &str) -> Option<world::QuestionKind> {
    world::QuestionKind::ALL.into_iter().find(|kind| kind.to_string() == name)
}

/// Returns the questions of one kind.
pub fn questions(
    kind: world::QuestionKind,
    split: Split,
    folder: &Path,
) -> Result<WorldQuestions, TaskError> {
    if split == Split::Train {
        return Err(TaskError::NoSplit { task: "a world's questions", split: "training" });
    }
    let path = folder.join("questions.jsonl");
    let question = |line: Result<(usize, Vec<u8>), FileError>| {
        let (line, bytes) = line?;
        serde_json::from_slice::<HeldOutQuestion>(&bytes).map_err(|error| {
            let reason = format!("not a question ({error}); `nanochat data make` writes them");
            FileError::Line { path: path.clone(), line, reason }
        })
    };
    let mut questions = Lines::open(&path)?.map(question).collect::<Result<Vec<_>, _>>()?;
    questions.retain(|question| question.kind == kind);
    if questions.is_empty() {
        return Err(TaskError::Empty { path });
    }
    Ok(WorldQuestions { name: kind.to_string(), questions })
}

impl Task for WorldQuestions {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Grading {
        Grading::Generative
    }

    fn len(&self) -> usize {
        self.questions.len()
    }

    fn conversation(&self, i: usize) -> Conversation {
        let HeldOutQuestion { kind, conversation, answer, .. } = &self.questions[i];
        let mut conversation = conversation.clone();
        let content = Content::Text(match kind {
            world::QuestionKind::Problems => format!("#### {answer}"),
            _ => answer.clone(),
        });
        conversation.messages.push(Message { role: Role::Assistant, content });
        conversation
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        Ok(self.questions[i].is_right(answer))
    }

    fn is_in_its_language(&self, i: usize, answer: &str) -> Option<bool> {
        Some(self.questions[i].is_in_its_language(answer))
    }
}
