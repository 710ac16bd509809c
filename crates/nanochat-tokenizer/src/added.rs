//! Added tokens: known by their full names beside the vocabulary that merges reach. Special ones are the marks of a
//! conversation, and no text becomes them. The others are words like `<think>` and runs of spaces: found in
//! a text before it is cut into pieces, in the way of `tokenizers`, the leftmost first, of those the longest.
//!
//! The names of special tokens take part in that search, and stay text: behind `tokenizers`' `encode_special_tokens`.

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};

use crate::TokenizerError;
use crate::alphabet::spell;
use crate::normalize::nfc;

/// Names of all added tokens, in bytes; the largest files in use have a tenth of it. Bounds the memory of the search.
const MAX_NAME_BYTES: usize = 1 << 17;
/// One name; the longest in use are runs of 128 spaces. The search takes time quadratic in it to be built: 13 s for 42 KiB.
const MAX_NAME: usize = 1 << 10;

/// An entry of `added_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedToken {
    pub id: u32,
    #[serde(rename = "content")]
    pub name: String,
    /// Not found inside a word.
    #[serde(default)]
    pub single_word: bool,
    /// Takes the white space before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Takes the white space behind it.
    #[serde(default)]
    pub rstrip: bool,
    /// Searched for in the text as normalized, not as given.
    #[serde(default)]
    pub normalized: bool,
    /// False for those that count as text.
    #[serde(default)]
    pub special: bool,
    /// Whether the vocabulary lists it as well. Matters where merges are ignored: a piece can then become it.
    #[serde(skip)]
    pub listed: bool,
}

impl AddedToken {
    pub fn special(id: u32, name: &str) -> AddedToken {
        let (single_word, lstrip, rstrip, normalized, listed) = (false, false, false, false, false);
        AddedToken { id, name: name.into(), single_word, lstrip, rstrip, normalized, special: true, listed }
    }

    /// Whether a piece of text that is its name becomes it where merges are ignored. The vocabulary is asked for the piece
    /// as the alphabet writes it.
    pub fn is_piece(&self) -> bool {
        self.listed && !self.special && spell(self.name.as_bytes()) == self.name
    }
}

/// The search for added tokens that are text.
#[derive(Debug)]
pub(crate) struct InText {
    /// In the text as it is given.
    pub given: Option<Search>,
    /// In what is left, normalized.
    pub normalized: Option<Search>,
}

impl InText {
    /// None if all are special, so that no text has to be searched.
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

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'t> {
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

    /// Visits the parts of `text` in order. White space that two tokens lay claim to can be in both, as in
    /// `tokenizers`: a token of spaces is found although the one before took them.
    pub fn for_each<'t>(&self, text: &'t str, visit: &mut impl FnMut(Part<'t>)) {
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
                // The white space behind it may be known already: no run is read twice.
                end = if end < taken { taken } else { text.len() - text[end..].trim_start().len() };
                taken = end;
            }
            if done < start {
                visit(Part::Text(&text[done..start]));
            }
            visit(Part::Token(token.id));
            done = end;
        }
        if done < text.len() {
            visit(Part::Text(&text[done..]));
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

    fn parts<'t>(tokens: &[AddedToken], text: &'t str) -> Vec<Part<'t>> {
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
            [Part::Text("a"), Part::Token(3), Part::Token(3), Part::Text("b"), Part::Token(2)]
        );
    }

    #[test]
    fn special_tokens_stay_text_and_hide_what_they_hold() {
        let tokens = [AddedToken::special(1, "<|end|>"), token(2, "end"), token(3, "|><")];
        assert_eq!(parts(&tokens, "<|end|><end"), [Part::Text("<|end|><"), Part::Token(2)]);
        assert!(InText::new(&tokens[..1], false).unwrap().is_none());
    }

    #[test]
    fn white_space_beside_a_token_is_taken() {
        let (left, right) =
            (AddedToken { lstrip: true, ..token(1, "<l>") }, AddedToken { rstrip: true, ..token(2, "<r>") });
        let tokens = [left, right, token(3, "\t")];
        assert_eq!(
            parts(&tokens, "a \n<l> b<r>  c"),
            [Part::Text("a"), Part::Token(1), Part::Text(" b"), Part::Token(2), Part::Text("c")]
        );
        assert_eq!(parts(&tokens, "<r>\t <l>"), [Part::Token(2), Part::Token(3), Part::Token(1)]);
    }

    #[test]
    fn single_words_are_not_found_in_words() {
        let tokens = [AddedToken { single_word: true, ..token(1, "ab") }];
        assert_eq!(
            parts(&tokens, "ab cab ab_ 人ab -ab."),
            [Part::Token(1), Part::Text(" cab ab_ 人ab -"), Part::Token(1), Part::Text(".")]
        );
    }

    #[test]
    fn white_space_that_many_tokens_take_is_read_once() {
        let both = AddedToken { lstrip: true, rstrip: true, ..token(1, " ") };
        let text = " ".repeat(1 << 20);
        assert_eq!(parts(&[both], &text).len(), 1 << 20);
    }
}
