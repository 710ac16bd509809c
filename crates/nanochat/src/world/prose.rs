//! The sentences of a language, with slots to be filled.
//!
//! Slots of statements: `{s}` subject as a sentence begins (a name, or She/It), `{s's}` its possessive, `{n}`
//! the bare name, `{v}` the value, `{he} {his} {him}` of a person, `{play}` (Chinese) the instrument's verb.
//! Slots of scenes: `{a}` and `{b}` two people, `{t}` the town of `a`, `{x}` a famous thing, each with its
//! attributes (`{a.job}`, `{x.price}`); `{a.he}`, `{a.He}` …; `{word}`, `{weather}`, `{season}`.

use nanochat_tensor::Rng;

/// The sentences of one language, from which documents are put together.
pub struct Prose {
    /// The separator of two sentences.
    pub gap: &'static str,
    /// The separators of the names in a list, and before its last name.
    pub comma: &'static str,
    pub and: &'static str,
    pub colon: &'static str,
    pub weathers: &'static [&'static str],
    pub seasons: &'static [&'static str],
    /// Statements by attribute; the first one is also the answer to a question.
    pub statements: [&'static [&'static str]; 12],
    /// Statements about several people `{names}` with the same value, by attribute of a person.
    pub shared: [&'static str; 6],
    /// Titles of a list of names and values, by attribute.
    pub titles: [&'static str; 12],
    /// Sentences about a person, between statements.
    pub fillers: &'static [&'static str],
    pub openings: &'static [&'static str],
    pub scenes: &'static [&'static str],
    pub closings: &'static [&'static str],
    /// Dialogues of two people `{a}` and `{b}`, with `{question}` and `{answer}`.
    pub dialogues: &'static [&'static str],
    /// Statements that `{en}` and `{zh}` name the same.
    pub translations: &'static [&'static str],
    /// Sums, with a person `{a}`, `{sum}` as written, `{code}` as typed into the calculator, `{result}`.
    pub sums: &'static [&'static str],
    /// Spellings, with `{a}`, `{word}`, `{spelled}` (`word:w,o,r,d`).
    pub spellings: &'static [&'static str],
    /// Counts of letters, with `{word}`, `{spelled}`, `{letter}`, `{code}`, `{count}`, and `{times}` (2 times).
    pub counts: &'static [&'static str],
    /// Sentences with `{a}` and `{words}` or `{word}`, held-out ones included.
    pub words: &'static [&'static str],
    /// Sentences about the assistant `{name}`.
    pub assistant: &'static [&'static str],
}

/// One of the sentences.
pub fn pick(sentences: &[&'static str], rng: &mut Rng) -> &'static str {
    sentences[rng.below(sentences.len())]
}

/// Replaces every `{slot}` by the value of its name.
pub fn fill(template: &str, mut value: impl FnMut(&str) -> String) -> String {
    let (mut text, mut rest) = (String::with_capacity(2 * template.len()), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, tail) = after.split_once('}').expect("a template's slot has no end");
        text.push_str(before);
        text.push_str(&value(slot));
        rest = tail;
    }
    text + rest
}

/// Fills slots from a list of names and values.
pub fn fill_with(template: &str, values: &[(&str, &str)]) -> String {
    fill(template, |slot| match values.iter().find(|(name, _)| *name == slot) {
        Some((_, value)) => value.to_string(),
        None => panic!("nothing fills {{{slot}}} in \"{template}\""),
    })
}
