//! Cuts text into the pieces inside which BPE merges: words with their leading space, short digit groups, punctuation,
//! white space.
//!
//! The pattern is GPT-4's (`cl100k`) with digits in groups of one or two instead of three, which wastes
//! fewer tokens of a small vocabulary on numbers. It and its relatives are scanned by hand (`scan.rs`), an order of
//! magnitude faster than a backtracking regex; any other pattern runs in `fancy-regex`. Imported files cut in
//! several steps (`steps.rs`).

mod dialect;
mod scan;
mod steps;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use crate::TokenizerError;
use crate::alphabet::{bytes_of, spell};

pub use scan::DEFAULT_PATTERN;
pub(crate) use steps::{PreTokenizerStep, STEPS};

use steps::{Behavior, GPT2_PATTERN, Pattern, WORDS_PATTERN};

/// The backtracking steps after which a custom pattern gives up on a text (fancy-regex's own limit is 1 M, which a long
/// run of spaces exceeds).
const BACKTRACK_LIMIT: usize = 100_000_000;

/// The steps of a pre-tokenizer, each applied to the pieces of the one before.
#[derive(Clone, Debug)]
pub(crate) struct Splitter {
    steps: Vec<PreTokenizerStep>,
    /// The steps that cut text.
    splits: Vec<PatternSplit>,
    /// The steps from `ByteLevel` on; None if `ByteLevel` is last and adds nothing.
    byte_level: Option<ByteLevelStage>,
}

/// The steps after cutting text, in the files of a few models.
#[derive(Clone, Debug)]
struct ByteLevelStage {
    /// Whether `ByteLevel` puts a space in front of each piece that has none.
    prefix_space: bool,
    /// `ByteLevel`'s own pattern, if it is applied after that space.
    splits: Vec<PatternSplit>,
    /// Steps after `ByteLevel`: they cut the alphabet's characters, possibly in the middle of a character of the text
    /// (Falcon).
    spelled: Vec<PatternSplit>,
}

#[derive(Clone, Debug)]
enum PatternSplit {
    Scan { max_digits: usize },
    Find { find: Find, behavior: Behavior, invert: bool },
}

#[derive(Clone, Debug)]
enum Find {
    Regex(Box<fancy_regex::Regex>),
    /// Every character for which the function returns true.
    Char(fn(char) -> bool),
}

impl Splitter {
    /// Makes a splitter whose pieces are the matches of `pattern` and the text between them.
    pub fn new(pattern: &str) -> Result<Splitter, TokenizerError> {
        Splitter::of(vec![PreTokenizerStep::isolated(pattern), PreTokenizerStep::bytes()])
    }

    /// Makes a splitter from steps, one of which is `ByteLevel`.
    pub fn of(steps: Vec<PreTokenizerStep>) -> Result<Splitter, TokenizerError> {
        let unsupported = |what: &str| Err(TokenizerError::Unsupported(what.into()));
        let (mut splits, mut byte_level) = (Vec::new(), None);
        for step in &steps {
            match (step, &mut byte_level) {
                (PreTokenizerStep::ByteLevel { .. }, Some(_)) => {
                    return unsupported("it turns text into bytes twice (ByteLevel)");
                }
                (&PreTokenizerStep::ByteLevel { add_prefix_space, use_regex, .. }, None) => {
                    let own = if use_regex { vec![PatternSplit::regex(GPT2_PATTERN)?] } else { Vec::new() };
                    let (first, own) = if add_prefix_space { (Vec::new(), own) } else { (own, Vec::new()) };
                    splits.extend(first);
                    byte_level = Some(ByteLevelStage {
                        prefix_space: add_prefix_space,
                        splits: own,
                        spelled: Vec::new(),
                    });
                }
                (step, None) => splits.push(PatternSplit::of(step)?),
                (step, Some(byte_level)) => byte_level.spelled.push(PatternSplit::of(step)?),
            }
        }
        let Some(byte_level) = byte_level else {
            return unsupported("it has no ByteLevel pre-tokenizer, so it is no byte-level BPE");
        };
        let byte_level = (byte_level.prefix_space || !byte_level.spelled.is_empty()).then_some(byte_level);
        Ok(Splitter { steps, splits, byte_level })
    }

    pub fn steps(&self) -> &[PreTokenizerStep] {
        &self.steps
    }

    /// Returns what the steps change in a text beyond cutting it.
    pub fn alterations(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().filter_map(|step| match step {
            // Patterns for which `Split::of` has found no scanner.
            PreTokenizerStep::Split { behavior: Behavior::Removed, pattern, invert }
                if !*invert
                    || !matches!(pattern, Pattern::Regex(regex) if scan::max_digits(regex).is_some()) =>
            {
                Some("may drop text (a Split step with Removed)")
            }
            PreTokenizerStep::Whitespace {} => Some("drops white space (Whitespace)"),
            PreTokenizerStep::ByteLevel { add_prefix_space: true, .. } => {
                Some("puts spaces in front (add_prefix_space)")
            }
            _ => None,
        })
    }

    /// Visits the pieces of a text in order, as text; only for a splitter made by `new`.
    pub fn for_each<'t>(&self, text: &'t str, visit: &mut impl FnMut(&'t str)) {
        cut(&self.splits, text, visit);
    }

    /// Visits the bytes of the pieces in order.
    pub fn for_each_bytes(&self, text: &str, visit: &mut impl FnMut(&[u8])) {
        match &self.byte_level {
            None => cut(&self.splits, text, &mut |piece| visit(piece.as_bytes())),
            Some(byte_level) => cut(&self.splits, text, &mut |piece| byte_level.cut(piece, visit)),
        }
    }
}

impl ByteLevelStage {
    fn cut(&self, piece: &str, visit: &mut impl FnMut(&[u8])) {
        let piece = match self.prefix_space && !piece.starts_with(' ') {
            true => Cow::Owned(format!(" {piece}")),
            false => Cow::Borrowed(piece),
        };
        cut(&self.splits, &piece, &mut |piece| match self.spelled[..] {
            [] => visit(piece.as_bytes()),
            _ => cut(&self.spelled, &spell(piece.as_bytes()), &mut |spelled| {
                visit(&bytes_of(spelled).expect("characters of the alphabet"))
            }),
        });
    }
}

/// Visits the pieces of `text` in order. Each consists of whole characters and none is empty.
fn cut<'t>(splits: &[PatternSplit], text: &'t str, visit: &mut impl FnMut(&'t str)) {
    match splits {
        _ if text.is_empty() => {}
        [] => visit(text),
        [PatternSplit::Scan { max_digits }] => scan::for_each(text, *max_digits, visit),
        [PatternSplit::Scan { max_digits }, rest @ ..] => {
            scan::for_each(text, *max_digits, &mut |piece| cut(rest, piece, visit))
        }
        [PatternSplit::Find { find, behavior, invert }, rest @ ..] => {
            let (mut piece, mut before) = (0..0, false);
            find.for_each(text, &mut |stretch, found| {
                let matched = found != *invert;
                if behavior.joins(before, matched) {
                    piece.end = stretch.end;
                } else {
                    cut(rest, &text[piece.clone()], visit);
                    let dropped = matched && *behavior == Behavior::Removed;
                    piece = if dropped { stretch.end..stretch.end } else { stretch };
                }
                before = matched;
            });
            cut(rest, &text[piece], visit);
        }
    }
}

impl Find {
    /// Visits the matches and the text between them, in order: the range, and whether it is a match.
    fn for_each(&self, text: &str, visit: &mut impl FnMut(Range<usize>, bool)) {
        let mut end = 0;
        let mut found = |found: Range<usize>| {
            if end < found.start {
                visit(end..found.start, false);
            }
            end = found.end;
            visit(found, true);
        };
        match self {
            // A match error (too many backtracking steps) ends the search, and the rest stays one piece.
            Find::Regex(regex) => {
                regex.find_iter(text).map_while(Result::ok).for_each(|m| found(m.start()..m.end()))
            }
            Find::Char(is) => {
                let chars = text.char_indices().filter(|(_, c)| is(*c));
                chars.for_each(|(at, c)| found(at..at + c.len_utf8()));
            }
        }
        if end < text.len() {
            visit(end..text.len(), false);
        }
    }
}

impl PatternSplit {
    fn of(step: &PreTokenizerStep) -> Result<PatternSplit, TokenizerError> {
        let chars = |is, behavior| PatternSplit::Find { find: Find::Char(is), behavior, invert: false };
        Ok(match step {
            PreTokenizerStep::Split { pattern, behavior, invert } => {
                let pattern = match pattern {
                    Pattern::Regex(pattern) => Cow::Borrowed(pattern.as_str()),
                    Pattern::String(text) => fancy_regex::escape(text),
                };
                // A scanned pattern leaves no text between its matches.
                let pieces = *behavior == Behavior::Isolated || *behavior == Behavior::Removed && *invert;
                match scan::max_digits(&pattern).filter(|_| pieces) {
                    Some(max_digits) => PatternSplit::Scan { max_digits },
                    None => {
                        let find = Find::Regex(Box::new(portable(&pattern)?));
                        PatternSplit::Find { find, behavior: *behavior, invert: *invert }
                    }
                }
            }
            PreTokenizerStep::Digits { individual_digits: true } => {
                chars(char::is_numeric, Behavior::Isolated)
            }
            PreTokenizerStep::Digits { individual_digits: false } => {
                chars(char::is_numeric, Behavior::Contiguous)
            }
            PreTokenizerStep::Punctuation { behavior } => chars(is_punctuation, *behavior),
            PreTokenizerStep::Whitespace {} => {
                let find = Find::Regex(Box::new(compile(WORDS_PATTERN)?));
                PatternSplit::Find { find, behavior: Behavior::Removed, invert: true }
            }
            PreTokenizerStep::ByteLevel { .. } => unreachable!("ByteLevel cuts by its pattern alone"),
        })
    }

    /// Makes a split into the matches and the text between them.
    fn regex(pattern: &str) -> Result<PatternSplit, TokenizerError> {
        let find = Find::Regex(Box::new(compile(pattern)?));
        Ok(PatternSplit::Find { find, behavior: Behavior::Isolated, invert: false })
    }
}

/// Whether the `Punctuation` step cuts at the character: ASCII's, and Unicode's as of version 8.0 (two have become
/// symbols since).
fn is_punctuation(c: char) -> bool {
    static PUNCTUATION: LazyLock<fancy_regex::Regex> =
        LazyLock::new(|| compile(r"[[\p{P}&&\p{age:8.0}]\x{166d}\x{111c9}]").expect("a valid class"));
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    PUNCTUATION.is_match(c.encode_utf8(&mut [0; 4])).expect("a class is found without backtracking")
}

/// Compiles a pattern of a user or a file; an error if `tokenizers` may read it differently.
fn portable(pattern: &str) -> Result<fancy_regex::Regex, TokenizerError> {
    compile(pattern)?; // reports an invalid regex first
    match dialect::translated(pattern) {
        Ok(translated) => compile(&translated),
        Err(construct) => {
            Err(TokenizerError::Dialect { pattern: pattern.into(), construct: construct.into() })
        }
    }
}

fn compile(pattern: &str) -> Result<fancy_regex::Regex, TokenizerError> {
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_LIMIT)
        .build()
        .map_err(|error| TokenizerError::Pattern { pattern: pattern.to_string(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        splitter.for_each(text, &mut |piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn english_chinese_numbers_and_white_space() {
        let splitter = Splitter::new(DEFAULT_PATTERN).unwrap();
        let text = "I'LL pay  12345 yuan:\r\n\n  人工智能，你好!! x\u{3000}";
        let expected = [
            "I",
            "'LL",
            " pay",
            " ",
            " ",
            "12",
            "34",
            "5",
            " yuan",
            ":\r\n\n",
            " ",
            " 人工智能",
            "，你好",
            "!!",
            " x",
            "\u{3000}",
        ];
        assert_eq!(pieces(&splitter, text), expected);
    }

    #[test]
    fn gaps_of_a_custom_pattern_stay_pieces() {
        assert_eq!(pieces(&Splitter::new(r"\d+").unwrap(), "ab12cd3"), ["ab", "12", "cd", "3"]);
        let steps = vec![
            PreTokenizerStep::isolated(r"\d+"),
            PreTokenizerStep::isolated("[a-b]"),
            PreTokenizerStep::bytes(),
        ];
        assert_eq!(pieces(&Splitter::of(steps).unwrap(), "ab12cd3"), ["a", "b", "12", "cd", "3"]);
        assert_eq!(pieces(&Splitter::of(vec![PreTokenizerStep::bytes()]).unwrap(), "ab 12"), ["ab 12"]);
    }

    #[test]
    fn a_match_goes_where_its_behavior_says() {
        let of = |behavior, invert| {
            let step = PreTokenizerStep::Split { pattern: Pattern::String("-".into()), behavior, invert };
            let splitter = Splitter::of(vec![step, PreTokenizerStep::bytes()]).unwrap();
            pieces(&splitter, "-a--b-").join(" ")
        };
        assert_eq!(of(Behavior::Isolated, false), "- a - - b -");
        assert_eq!(of(Behavior::Removed, false), "a b");
        assert_eq!(of(Behavior::Removed, true), "- - - -");
        assert_eq!(of(Behavior::Contiguous, false), "- a -- b -");
        assert_eq!(of(Behavior::MergedWithPrevious, false), "- a- - b-");
        assert_eq!(of(Behavior::MergedWithNext, false), "-a - -b -");
    }

    #[test]
    fn steps_behind_bytes_cut_inside_characters() {
        let steps = vec![PreTokenizerStep::bytes(), PreTokenizerStep::Digits { individual_digits: false }];
        let mut pieces = Vec::new();
        // The last byte of ò is 0xB2, which the alphabet writes as ².
        Splitter::of(steps).unwrap().for_each_bytes("aòb1", &mut |piece| pieces.push(piece.to_vec()));
        assert_eq!(pieces, [&b"a\xC3"[..], b"\xB2", b"b", b"1"]);
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_named() {
        let error = Splitter::new("(a").unwrap_err().to_string();
        assert!(error.contains("(a"), "{error}");
    }
}
