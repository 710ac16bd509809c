//! Translation pairs of a .tsv file: two columns, named by the languages in the first line, such as
//! `English<TAB>Chinese`. Each pair is asked for both ways.

use std::path::Path;

use super::Conversations;
use crate::conversation::{Content, Conversation, Message, Role};
use crate::files::file_error::FileError;
use crate::files::lines::Lines;

pub struct Pairs {
    languages: [String; 2],
    pairs: Vec<[String; 2]>,
}

impl Pairs {
    pub fn open(path: &Path) -> Result<Pairs, FileError> {
        let mut rows = Vec::new();
        for line in Lines::open(path)? {
            let (line, bytes) = line?;
            let error = |reason: &str| FileError::Line { path: path.into(), line, reason: reason.into() };
            let text = std::str::from_utf8(&bytes).map_err(|_| error("not UTF-8"))?;
            match text.split('\t').map(str::trim).collect::<Vec<_>>()[..] {
                [a, b] if !a.is_empty() && !b.is_empty() => rows.push([a, b].map(String::from)),
                _ => return Err(error("a pair is two texts with a tab between")),
            }
        }
        if rows.len() < 2 {
            let reason = "the first line names the two languages, the others are pairs".into();
            return Err(FileError::Line { path: path.into(), line: 1, reason });
        }
        Ok(Pairs { languages: rows.remove(0), pairs: rows })
    }
}

impl Conversations for Pairs {
    fn len(&self) -> usize {
        2 * self.pairs.len()
    }

    fn get(&self, index: usize) -> Result<Conversation, FileError> {
        let (pair, from, to) = (&self.pairs[index / 2], index % 2, 1 - index % 2);
        let ask = match self.languages[to].as_str() {
            "中文" | "汉语" => "翻译成中文：",
            "英文" | "英语" => "翻译成英文：",
            _ => &format!("Translate into {}: ", self.languages[to]),
        };
        let message = |role, text: String| Message { role, content: Content::Text(text) };
        let user = message(Role::User, format!("{ask}{}", pair[from]));
        Ok(Conversation { messages: vec![user, message(Role::Assistant, pair[to].clone())] })
    }
}
