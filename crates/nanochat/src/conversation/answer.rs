//! Parses answers token by token: text, calls of the calculator between `<|python_start|>` and `<|python_end|>`,
//! results between `<|output_start|>` and `<|output_end|>`, and a token that ends the answer.

use std::sync::Arc;

use nanochat_tokenizer::Tokenizer;

use crate::conversation::{Content, Message, Part, PartKind, Role};

/// The special tokens that end an answer.
const STOPS: [&str; 2] = ["<|assistant_end|>", "<|bos|>"];

/// The meaning of a token in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A token inside a part of this kind.
    Of(PartKind),
    /// The start of a part of this kind, which ends the part before it.
    Opens(PartKind),
    /// The end of a part of this kind, after which text follows.
    Closes(PartKind),
    /// The end of the answer.
    Stops,
    /// A special token without meaning in an answer.
    Stray,
}

/// A parser that returns the meaning of each token of an answer. A part that is not closed ends with the answer.
#[derive(Clone)]
pub struct AnswerReader {
    special: Arc<[(u32, Token)]>,
    kind: PartKind,
}

impl AnswerReader {
    /// Makes a parser at the beginning of an answer.
    pub fn new(tokenizer: &Tokenizer) -> AnswerReader {
        let meaning = |name: &str| {
            let around = [PartKind::Python, PartKind::PythonOutput].into_iter().find_map(|kind| {
                let (start, end) = kind.around()?;
                match name {
                    _ if name == start => Some(Token::Opens(kind)),
                    _ if name == end => Some(Token::Closes(kind)),
                    _ => None,
                }
            });
            let other = if STOPS.contains(&name) { Token::Stops } else { Token::Stray };
            around.unwrap_or(other)
        };
        let named = |name| Some((tokenizer.special(name)?, meaning(name)));
        AnswerReader { special: tokenizer.special_names().filter_map(named).collect(), kind: PartKind::Text }
    }

    /// Makes a parser for a model without a tokenizer, where every token is text.
    pub fn of_text() -> AnswerReader {
        AnswerReader { special: Arc::new([]), kind: PartKind::Text }
    }

    pub fn read(&mut self, id: u32) -> Token {
        let special = self.special.iter().find(|(special, _)| *special == id);
        let token = special.map_or(Token::Of(self.kind), |(_, token)| *token);
        self.kind = match token {
            Token::Opens(kind) => kind,
            Token::Closes(_) => PartKind::Text,
            Token::Of(_) | Token::Stops | Token::Stray => self.kind,
        };
        token
    }
}

/// Converts generated tokens to the parts of an assistant message.
pub fn parts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Part> {
    let mut reader = AnswerReader::new(tokenizer);
    let mut parts: Vec<(PartKind, Vec<u32>)> = vec![(PartKind::Text, Vec::new())];
    for &id in ids {
        match reader.read(id) {
            Token::Of(_) => parts.last_mut().expect("never empty").1.push(id),
            Token::Opens(kind) => parts.push((kind, Vec::new())),
            Token::Closes(_) => parts.push((PartKind::Text, Vec::new())),
            Token::Stops | Token::Stray => {}
        }
    }
    parts.retain(|(_, ids)| !ids.is_empty());
    parts.into_iter().map(|(kind, ids)| Part { kind, text: tokenizer.decode(&ids) }).collect()
}

/// Converts generated tokens to an assistant message.
pub fn message(tokenizer: &Tokenizer, ids: &[u32]) -> Message {
    let parts = parts(tokenizer, ids);
    let content = match parts.as_slice() {
        [] => Content::Text(String::new()),
        [Part { kind: PartKind::Text, text }] => Content::Text(text.clone()),
        _ => Content::Parts(parts),
    };
    Message { role: Role::Assistant, content }
}

/// Returns the text that a user sees: the joined parts of kind text.
pub fn visible_text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let text = |part: Part| (part.kind == PartKind::Text).then_some(part.text);
    parts(tokenizer, ids).into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;

    /// Returns the tokens of `text`, in which names such as `[python_start]` stand for special tokens.
    fn ids(text: &str) -> Vec<u32> {
        let tokenizer = tokenizer();
        let piece = |piece: &str| match piece.split_once(']') {
            Some((name, text)) => {
                let special = tokenizer.special(&format!("<|{name}|>")).expect("a special token");
                [vec![special], tokenizer.encode(text)].concat()
            }
            None => tokenizer.encode(piece),
        };
        text.split('[').flat_map(piece).collect()
    }

    #[test]
    fn each_token_is_told_apart() {
        use PartKind::{Python, PythonOutput, Text};
        let mut reader = AnswerReader::new(&tokenizer());
        let read: Vec<Token> =
            ids("a[python_start]1[python_end][output_start]2[output_end]b[user_start][bos]")
                .into_iter()
                .map(|id| reader.read(id))
                .collect();
        let want = [
            Token::Of(Text),
            Token::Opens(Python),
            Token::Of(Python),
            Token::Closes(Python),
            Token::Opens(PythonOutput),
            Token::Of(PythonOutput),
            Token::Closes(PythonOutput),
            Token::Of(Text),
            Token::Stray,
            Token::Stops,
        ];
        assert_eq!(read, want);
        assert_eq!(AnswerReader::of_text().read(ids("[bos]")[0]), Token::Of(Text));
    }

    #[test]
    fn parts_need_not_be_closed_in_order() {
        let said = |text: &str| -> Vec<(PartKind, String)> {
            parts(&tokenizer(), &ids(text)).into_iter().map(|part| (part.kind, part.text)).collect()
        };
        use PartKind::{Python, PythonOutput, Text};
        let of = |kind, text: &str| (kind, text.to_string());
        assert_eq!(said("a[python_start]1"), [of(Text, "a"), of(Python, "1")]);
        assert_eq!(said("[python_start]1[output_start]2"), [of(Python, "1"), of(PythonOutput, "2")]);
        assert_eq!(said("[output_end]a[python_end]b"), [of(Text, "a"), of(Text, "b")]);
        assert_eq!(said("[python_start]1[output_end]a"), [of(Python, "1"), of(Text, "a")]);
        assert_eq!(visible_text(&tokenizer(), &ids("a[python_start]1[python_end]b")), "ab");
    }
}
