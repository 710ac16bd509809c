//! Conversations to train on: SmolTalk (Allal et al. 2025) and a user's own files.

use std::path::Path;

use super::{Grading, Split, Task, TaskError, files, sets};
use crate::conversation::{Conversation, Examples, from_json};
use crate::files::lines::BadLines;

pub struct Talk {
    name: String,
    conversations: Vec<Conversation>,
}

/// Opens the hub's `HuggingFaceTB/smol-smoltalk`, shuffled as in the reference.
pub fn smoltalk(split: Split, folder: &Path) -> Result<Talk, TaskError> {
    let pattern = match split {
        Split::Train => "smol-smoltalk/data/train-*.parquet",
        Split::Test => "smol-smoltalk/data/test-*.parquet",
    };
    let files = files::find("SmolTalk", split, folder, &[pattern], "the hub's HuggingFaceTB/smol-smoltalk")?;
    let conversations = sets::shuffled(&files, |row| {
        let messages = row.value("messages")?.clone();
        from_json(messages).map_err(|reason| row.bad(reason))
    })?;
    Ok(Talk { name: "SmolTalk".into(), conversations })
}

/// Opens a file of conversations, in its own order.
pub fn file(name: &str, path: &Path) -> Result<Talk, TaskError> {
    let read =
        Examples::open(path, BadLines::Fail)?.map(|read| read.map(|(_, example)| example.conversation));
    let conversations = read.collect::<Result<Vec<_>, _>>()?;
    match conversations.is_empty() {
        true => Err(TaskError::Empty { path: path.into() }),
        false => Ok(Talk { name: name.into(), conversations }),
    }
}

impl Task for Talk {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Grading {
        Grading::Talk
    }

    fn len(&self) -> usize {
        self.conversations.len()
    }

    fn conversation(&self, i: usize) -> Conversation {
        self.conversations[i].clone()
    }
}
