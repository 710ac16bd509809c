//! From tokens to what a client may see: whole characters, tool calls apart from text, nothing of a stop string.

use nanochat::answer::{Reader, Token};
use nanochat::conversation::{Part, PartKind};
use nanochat_tokenizer::{StreamDecoder, Tokenizer};

pub struct Transcript {
    reader: Reader,
    decoder: StreamDecoder,
    /// Of the part under way.
    kind: PartKind,
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl Transcript {
    pub fn new(tokenizer: &Tokenizer, stops: &[String]) -> Transcript {
        Transcript {
            reader: Reader::new(tokenizer),
            decoder: StreamDecoder::new(tokenizer),
            kind: PartKind::Text,
            stops: stops.to_vec(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Whether a stop string was said; nothing comes after it.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether the next token that is not special belongs to the text.
    pub fn in_text(&self) -> bool {
        self.kind == PartKind::Text
    }

    /// What the token adds, in order; empty while a character or a stop string is still open.
    pub fn push(&mut self, id: u32) -> Vec<Part> {
        if self.stopped {
            return Vec::new();
        }
        let next = match self.reader.read(id) {
            Token::Of(_) => {
                let text = self.decoder.push(id);
                return self.said(text).into_iter().collect();
            }
            Token::Opens(kind) => kind,
            Token::Closes(_) => PartKind::Text,
            Token::Stops | Token::Stray => return Vec::new(), // say nothing
        };
        let rest = self.finish();
        self.kind = next;
        rest
    }

    /// What is left when no token follows.
    pub fn finish(&mut self) -> Vec<Part> {
        let rest = self.decoder.finish();
        let mut parts: Vec<Part> = self.said(rest).into_iter().collect();
        if !self.stopped && !self.held.is_empty() {
            parts.push(Part { kind: PartKind::Text, text: std::mem::take(&mut self.held) });
        }
        parts
    }

    fn said(&mut self, text: String) -> Option<Part> {
        let text = match self.kind {
            PartKind::Text if !self.stops.is_empty() => self.before_stop(text),
            _ => text,
        };
        (!text.is_empty()).then_some(Part { kind: self.kind, text })
    }

    fn before_stop(&mut self, text: String) -> String {
        self.held.push_str(&text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let held = &self.held;
        let begins_stop = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&held[*at..]));
        let keep = held.char_indices().map(|(at, _)| at).find(begins_stop).unwrap_or(held.len());
        let kept = self.held.split_off(keep);
        std::mem::replace(&mut self.held, kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanochat_tokenizer::{TrainOptions, train};

    /// What is said of `text`, byte by byte: a part for each token that completes something.
    fn said(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer =
            train(["a"].iter(), &TrainOptions { vocab_size: 265, ..TrainOptions::default() }).unwrap();
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut transcript = Transcript::new(&tokenizer, &stops);
        let mut parts: Vec<Part> =
            tokenizer.encode(text).iter().flat_map(|&id| transcript.push(id)).collect();
        parts.extend(transcript.finish());
        (parts.into_iter().map(|part| part.text).collect(), transcript.stopped())
    }

    #[test]
    fn text_is_held_back_only_while_a_stop_string_may_come() {
        assert_eq!(said("a你b", &[]).0, ["a", "你", "b"]);
        assert_eq!(said("abcd", &["cd"]), (vec!["a".into(), "b".into()], true));
        assert_eq!(said("abcx", &["cd"]), (vec!["a".into(), "b".into(), "cx".into()], false));
        assert_eq!(said("ab\n\n", &["\n\n\n"]).0.concat(), "ab\n\n");
        assert_eq!(said("aab。", &["ab", "。"]), (vec!["a".into()], true));
    }

    #[test]
    fn tool_calls_are_parts_of_their_own() {
        let tokenizer =
            train(["a"].iter(), &TrainOptions { vocab_size: 265, ..TrainOptions::default() }).unwrap();
        let id = |name: &str| tokenizer.special(name).unwrap();
        let mut transcript = Transcript::new(&tokenizer, &["7".to_string()]);
        let ids = [
            tokenizer.encode("x"),
            vec![id("<|python_start|>"), tokenizer.encode("7")[0], id("<|python_end|>")],
            vec![
                id("<|output_start|>"),
                tokenizer.encode("7")[0],
                id("<|output_end|>"),
                id("<|user_start|>"),
            ],
            tokenizer.encode("y7z"),
        ]
        .concat();
        let parts: Vec<Part> = ids.iter().flat_map(|&id| transcript.push(id)).collect();
        let of = |kind| {
            parts.iter().filter(|part| part.kind == kind).map(|part| part.text.as_str()).collect::<String>()
        };
        assert_eq!([of(PartKind::Text), of(PartKind::Python), of(PartKind::PythonOutput)], ["xy", "7", "7"]);
        assert!(transcript.stopped());
    }
}
