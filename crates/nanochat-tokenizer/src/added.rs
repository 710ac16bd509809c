//! Added tokens: tokens with a fixed name, beside the vocabulary that merges produce. Special ones mark the structure
//! of a conversation, and no text encodes to them. The others are words like `<think>` and runs of spaces: they are
//! found in a text before it is cut into pieces, as in `tokenizers`: the leftmost first, and the longest of those.
//!
//! The names of special tokens take part in that search but stay text, like with `tokenizers`' `encode_special_tokens`.

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};

use crate::TokenizerError;
use crate::alphabet::spell;
use crate::normalize::nfc;

/// The most bytes in the names of all added tokens; the largest files in use have a tenth of it. Limits the memory of
/// the search.
const MAX_NAME_BYTES: usize = 1 << 17;
/// The most bytes in one name; the longest in use are runs of 128 spaces. Building the search takes time quadratic in
/// it: 13 s for 42 KiB.
const MAX_NAME: usize = 1 << 10;

/// An entry of `added_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedToken {
    pub id: u32,
    #[serde(rename = "content")]
    pub name: String,
    /// Whether it is found only as a whole word.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it includes the white space before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it includes the white space after it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is searched for in the normalized text instead of the original.
    #[serde(default)]
    pub normalized: bool,
    /// Whether it is special; text becomes only those that are not.
    #[serde(default)]
    pub special: bool,
    /// Whether the vocabulary lists it too. This matters if merges are ignored: a piece can then become it.
    #[serde(skip)]
    pub listed: bool,
}

impl AddedToken {
    pub fn special(id: u32, name: &str) -> AddedToken {
        let (single_word, lstrip, rstrip, normalized, listed) = (false, false, false, false, false);
        AddedToken { id, name: name.into(), single_word, lstrip, rstrip, normalized, special: true, listed }
    }

    /// Whether a piece of text equal to its name becomes it if merges are ignored. The vocabulary is searched for the
    /// piece in the byte alphabet's spelling.
    pub fn is_piece(&self) -> bool {
        self.listed && !self.special && spell(self.name.as_bytes()) == self.name
    }
}

/// The search for added tokens in text.
#[derive(Debug)]
pub(crate) struct InText {
    /// The search in the text as given.
    pub given: Option<Search>,
    /// The search in the remaining text, normalized.
    pub normalized: Option<Search>,
}

impl InText {
    /// Returns None if all tokens are special, so that no text has to be searched.
    pub fn new(added: &[AddedToken], composed: bool) -> Result<Option<InText>, TokenizerError> {
        if added.iter().all(|token| token.special) {
            return Ok(None);
        }
        let bytes: usize = added.iter().map(|token| token.name.len()).sum();
        if bytes > MAX_NAME_BYTES {
            let message =
                format!("its added tokens have names of {bytes} bytes; {MAX_NAME_BYTES} are the most");
            return Err(TokenizerError::Unsupported(message));
        }
        if let Some(token) = added.iter().find(|token| token.name.len() > MAX_NAME) {
            let (id, length) = (token.id, token.name.len());
            let message =
                format!("its added token {id} has a name of {length} bytes; {MAX_NAME} are the most");
            return Err(TokenizerError::Unsupported(message));
        }
        let (normalized, given): (Vec<_>, Vec<_>) = added.iter().cloned().partition(|token| token.normalized);
        Ok(Some(InText { given: Search::new(given, false)?, normalized: Search::new(normalized, composed)? }))
    }
}

/// A stretch of a text: an added token or text between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextPart<'t> {
    Text(&'t str),
    Token(u32),
}

#[derive(Debug)]
pub(crate) struct Search {
    names: AhoCorasick,
    tokens: Vec<AddedToken>,
}

impl Search {
    fn new(tokens: Vec<AddedToken>, composed: bool) -> Result<Option<Search>, TokenizerError> {
        if tokens.iter().all(|token| token.special) {
            return Ok(None);
        }
        let name =
            |token: &AddedToken| if composed { nfc(&token.name).into_owned() } else { token.name.clone() };
        let names: Vec<String> = tokens.iter().map(name).collect();
        let mut seen = hashbrown::HashSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(TokenizerError::Invalid(format!(
                "two added tokens are {twice:?} once they are normalized"
            )));
        }
        let names = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names);
        let names =
            names.map_err(|error| TokenizerError::Unsupported(format!("its added tokens: {error}")))?;
        Ok(Some(Search { names, tokens }))
    }

    /// Visits the parts of `text` in order. White space claimed by two tokens can be in both, as in `tokenizers`: a
    /// token of spaces is found although the one before it included them.
    pub fn for_each<'t>(&self, text: &'t str, visit: &mut impl FnMut(TextPart<'t>)) {
        let (mut done, mut taken) = (0, 0);
        for found in self.names.find_iter(text) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.special || token.single_word && !stands_alone(&text[..start], &text[end..]) {
                continue;
            }
            if token.lstrip {
                start = done.max(done.min(start) + text[done.min(start)..start].trim_end().len());
            }
            if token.rstrip {
                // The end of the white space may be known already, so that no run is scanned twice.
                end = if end < taken { taken } else { text.len() - text[end..].trim_start().len() };
                taken = end;
            }
            if done < start {
                visit(TextPart::Text(&text[done..start]));
            }
            visit(TextPart::Token(token.id));
            done = end;
        }
        if done < text.len() {
            visit(TextPart::Text(&text[done..]));
        }
    }
}

fn stands_alone(before: &str, behind: &str) -> bool {
    let word = |c: Option<char>| c.is_some_and(regex_syntax::is_word_character);
    !word(before.chars().next_back()) && !word(behind.chars().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'t>(tokens: &[AddedToken], text: &'t str) -> Vec<TextPart<'t>> {
        let in_text = InText::new(tokens, false).unwrap().unwrap();
        let mut parts = Vec::new();
        in_text.given.unwrap().for_each(text, &mut |part| parts.push(part));
        parts
    }

    fn token(id: u32, name: &str) -> AddedToken {
        AddedToken { special: false, ..AddedToken::special(id, name) }
    }

    #[test]
    fn the_longest_name_at_the_leftmost_place_is_taken() {
        let spaces = [token(2, "  "), token(3, "   ")];
        assert_eq!(
            parts(&spaces, "a      b  "),
            [
                TextPart::Text("a"),
                TextPart::Token(3),
                TextPart::Token(3),
                TextPart::Text("b"),
                TextPart::Token(2)
            ]
        );
    }

    #[test]
    fn special_tokens_stay_text_and_hide_what_they_hold() {
        let tokens = [AddedToken::special(1, "<|end|>"), token(2, "end"), token(3, "|><")];
        assert_eq!(parts(&tokens, "<|end|><end"), [TextPart::Text("<|end|><"), TextPart::Token(2)]);
        assert!(InText::new(&tokens[..1], false).unwrap().is_none());
    }

    #[test]
    fn white_space_beside_a_token_is_taken() {
        let (left, right) =
            (AddedToken { lstrip: true, ..token(1, "<l>") }, AddedToken { rstrip: true, ..token(2, "<r>") });
        let tokens = [left, right, token(3, "\t")];
        assert_eq!(
            parts(&tokens, "a \n<l> b<r>  c"),
            [
                TextPart::Text("a"),
                TextPart::Token(1),
                TextPart::Text(" b"),
                TextPart::Token(2),
                TextPart::Text("c")
            ]
        );
        assert_eq!(parts(&tokens, "<r>\t <l>"), [TextPart::Token(2), TextPart::Token(3), TextPart::Token(1)]);
    }

    #[test]
    fn single_words_are_not_found_in_words() {
        let tokens = [AddedToken { single_word: true, ..token(1, "ab") }];
        assert_eq!(
            parts(&tokens, "ab cab ab_ 人ab -ab."),
            [TextPart::Token(1), TextPart::Text(" cab ab_ 人ab -"), TextPart::Token(1), TextPart::Text(".")]
        );
    }

    #[test]
    fn white_space_that_many_tokens_take_is_read_once() {
        let both = AddedToken { lstrip: true, rstrip: true, ..token(1, " ") };
        let text = " ".repeat(1 << 20);
        assert_eq!(parts(&[both], &text).len(), 1 << 20);
    }
}
