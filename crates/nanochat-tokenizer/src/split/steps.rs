//! The steps of a pre-tokenizer, as `tokenizer.json` lists them: those that cut text into pieces, and `ByteLevel`.

use serde::{Deserialize, Serialize};

/// GPT-2's pattern, used by a `ByteLevel` step with `use_regex`.
pub(super) const GPT2_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The pattern of the `Whitespace` step.
pub(super) const WORDS_PATTERN: &str = r"\w+|[^\w\s]+";

/// One step, applied to each piece that the steps before it made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub(crate) enum PreTokenizerStep {
    /// Cuts at the matches of a pattern or, inverted, at the text between them.
    Split {
        pattern: Pattern,
        behavior: Behavior,
        #[serde(default)]
        invert: bool,
    },
    /// Cuts numbers out, whole or digit by digit.
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    /// Cuts punctuation out.
    Punctuation {
        #[serde(default)]
        behavior: Behavior,
    },
    /// Keeps words and runs of punctuation; the white space between them is lost.
    Whitespace {},
    /// Turns pieces into bytes, written in the alphabet, which later steps see. `trim_offsets` changes no token.
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default)]
        trim_offsets: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
}

/// The names of all steps.
pub(crate) const STEPS: [&str; 5] = ["Split", "Digits", "Punctuation", "Whitespace", "ByteLevel"];

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Pattern {
    String(String),
    Regex(String),
}

/// The use of a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Behavior {
    /// It becomes a piece.
    #[default]
    Isolated,
    /// It is dropped.
    Removed,
    /// It becomes one piece with the matches beside it.
    Contiguous,
    /// It is appended to the piece before it.
    MergedWithPrevious,
    /// It is prepended to the piece after it.
    MergedWithNext,
}

impl Behavior {
    /// Whether a stretch of text joins the stretch before it into one piece; each argument says whether it is a match.
    pub(super) fn joins(self, before: bool, matched: bool) -> bool {
        match self {
            Behavior::Isolated | Behavior::Removed => false,
            Behavior::Contiguous => before == matched,
            Behavior::MergedWithPrevious => !before && matched,
            Behavior::MergedWithNext => before && !matched,
        }
    }
}

impl PreTokenizerStep {
    /// Returns the step of the files written here: pieces are the matches and the text between them.
    pub fn isolated(pattern: &str) -> PreTokenizerStep {
        let pattern = Pattern::Regex(pattern.into());
        PreTokenizerStep::Split { pattern, behavior: Behavior::Isolated, invert: false }
    }

    /// Returns `ByteLevel` after steps that have already cut the text.
    pub fn bytes() -> PreTokenizerStep {
        PreTokenizerStep::ByteLevel { add_prefix_space: false, trim_offsets: false, use_regex: false }
    }
}
