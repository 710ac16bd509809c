//! Turns tokens into the output that a client sees: whole characters, tool calls apart from text, no part of a stop
//! string.

use nanochat::conversation::answer::{AnswerReader, Token};
use nanochat::conversation::{Part, PartKind};
/// The state of one sample's output.
use nanochat_tokenizer::{StreamDecoder, Tokenizer};

pub struct Transcript {
    reader: AnswerReader,
    decoder: StreamDecoder,
    /// The kind of the current part.
    kind: PartKind,
    stops: Vec<String>,
    /// Text held back because a stop string may begin with it.
    held: String,
    stopped: bool,
}

impl Transcript {
    pub fn new(tokenizer: &Tokenizer, stops: &[String]) -> Transcript {
        Transcript {
            reader: AnswerReader::new(tokenizer),
            decoder: StreamDecoder::new(tokenizer),
            kind: PartKind::Text,
            stops: stops.to_vec(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Whether a stop string has occurred; nothing is output after it.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether the next ordinary token belongs to the text.
    pub fn in_text(&self) -> bool {
        self.kind == PartKind::Text
    }

    /// Returns the parts that the token completes, in order; none while a character or a possible stop string is
    /// incomplete.
    pub fn push(&mut self, id: u32) -> Vec<Part> {
        if self.stopped {
            return Vec::new();
        }
        let next = match self.reader.read(id) {
            Token::Of(_) => {
                let text = self.decoder.push(id);
                return self.emit(text).into_iter().collect();
            }
            Token::Opens(kind) => kind,
            Token::Closes(_) => PartKind::Text,
            Token::Stops | Token::Stray => return Vec::new(), // without output
        };
        let rest = self.finish();
        self.kind = next;
        rest
    }

    /// Returns the output that was held back, when no more tokens follow.
    pub fn finish(&mut self) -> Vec<Part> {
        let rest = self.decoder.finish();
        let mut parts: Vec<Part> = self.emit(rest).into_iter().collect();
        if !self.stopped && !self.held.is_empty() {
            parts.push(Part { kind: PartKind::Text, text: std::mem::take(&mut self.held) });
        }
        parts
    }

    fn emit(&mut self, text: String) -> Option<Part> {
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

    /// Feeds `text` byte by byte and returns the outputs, one per token that completes something, and whether it
    /// stopped.
    fn outputs(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
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
        assert_eq!(outputs("a你b", &[]).0, ["a", "你", "b"]);
        assert_eq!(outputs("abcd", &["cd"]), (vec!["a".into(), "b".into()], true));
        assert_eq!(outputs("abcx", &["cd"]), (vec!["a".into(), "b".into(), "cx".into()], false));
        assert_eq!(outputs("ab\n\n", &["\n\n\n"]).0.concat(), "ab\n\n");
        assert_eq!(outputs("aab。", &["ab", "。"]), (vec!["a".into()], true));
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
