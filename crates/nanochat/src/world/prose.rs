//! What a language brings: its tables of sentences, and how the slots of a sentence are filled.
//!
//! Slots of statements: `{s}` subject as a sentence begins (a name, or She/It), `{s's}` its possessive, `{n}`
//! the bare name, `{v}` the value, `{he} {his} {him}` of a person, `{play}` (Chinese) the instrument's verb.
//! Slots of scenes: `{a}` and `{b}` two people, `{t}` the town of `a`, `{x}` a famous thing, each with its
//! attributes (`{a.job}`, `{x.price}`); `{a.he}`, `{a.He}` …; `{word}`, `{weather}`, `{season}`.

use nanochat_tensor::Rng;

use super::facts::{Attribute, Fact, Family};
use super::lexicon;
use super::people::{PEOPLE, PLAY_ZH};
use super::{Language, World, stories_en, stories_zh};

/// The sentences of one language, from which documents are put together.
pub struct Prose {
    /// Between two sentences.
    pub gap: &'static str,
    /// Between the names of a list, and before its last name.
    pub comma: &'static str,
    pub and: &'static str,
    pub colon: &'static str,
    pub weathers: &'static [&'static str],
    pub seasons: &'static [&'static str],
    /// By attribute; the first one is also the answer to a question.
    pub statements: [&'static [&'static str]; 12],
    /// By attribute of a person: of several people with the same value, `{names}`.
    pub shared: [&'static str; 6],
    /// By attribute: title of a list of names and values.
    pub titles: [&'static str; 12],
    /// Of a person, between statements.
    pub fillers: &'static [&'static str],
    pub openings: &'static [&'static str],
    pub scenes: &'static [&'static str],
    pub closings: &'static [&'static str],
    /// `{question}`, `{answer}`, and two people `{a}`, `{b}` who talk.
    pub dialogues: &'static [&'static str],
    /// `{en}` and `{zh}` name the same.
    pub translations: &'static [&'static str],
    /// `{a}`, `{sum}` as written, `{code}` as typed, `{result}`.
    pub sums: &'static [&'static str],
    /// `{a}`, `{word}`, `{spelled}` (`word:w,o,r,d`).
    pub spellings: &'static [&'static str],
    /// `{word}`, `{spelled}`, `{letter}`, `{code}`, `{count}`, and `{times}` (2 times).
    pub counts: &'static [&'static str],
    /// `{a}` and `{words}` or `{word}`, held-out ones too.
    pub words: &'static [&'static str],
    /// About the assistant `{name}`.
    pub assistant: &'static [&'static str],
}

impl Language {
    pub(super) fn prose(self) -> &'static Prose {
        match self {
            Language::English => &stories_en::PROSE,
            Language::Chinese => &stories_zh::PROSE,
        }
    }

    /// he, He, his, His, him: for a person; `None` for another slot.
    fn pronoun(self, slot: &str, she: bool) -> Option<&'static str> {
        let forms = match (self, she) {
            (Language::English, true) => ["she", "She", "her", "Her", "her"],
            (Language::English, false) => ["he", "He", "his", "His", "him"],
            (Language::Chinese, true) => ["她", "她", "她的", "她的", "她"],
            (Language::Chinese, false) => ["他", "他", "他的", "他的", "他"],
        };
        ["he", "He", "his", "His", "him"].iter().position(|&name| name == slot).map(|form| forms[form])
    }
}

/// One of the sentences.
pub fn pick(sentences: &[&'static str], rng: &mut Rng) -> &'static str {
    sentences[rng.below(sentences.len())]
}

/// Replaces every `{slot}` by what `value` says for its name.
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

/// Who and what a scene is about.
#[derive(Clone, Copy)]
pub struct Cast {
    pub a: usize,
    pub b: usize,
    pub thing: usize,
}

impl Cast {
    /// Two people of different towns and a thing.
    pub fn draw(world: &World, rng: &mut Rng) -> Cast {
        let home = |subject| world.value_index(Fact { attribute: Attribute::Town, subject });
        let a = rng.below(PEOPLE.len());
        let b = loop {
            let b = rng.below(PEOPLE.len());
            if home(a) != home(b) {
                break b;
            }
        };
        Cast { a, b, thing: rng.below(Family::Thing.len()) }
    }
}

impl World {
    /// A sentence that states the fact, of its subject by name or (`pronoun`) by he, she, it.
    pub(super) fn statement(&self, fact: Fact, language: Language, pronoun: bool, rng: &mut Rng) -> String {
        let template = rng.choose(language.prose().statements[fact.attribute as usize]);
        self.fill_statement(template, fact, language, pronoun)
    }

    /// Fills the slots of a statement, question or answer about `fact`.
    pub(super) fn fill_statement(
        &self,
        template: &str,
        fact: Fact,
        language: Language,
        pronoun: bool,
    ) -> String {
        let person = (fact.attribute.family() == Family::Person).then(|| PEOPLE[fact.subject].1);
        let name = fact.name(language);
        let english = language == Language::English;
        let subject = match (person, pronoun) {
            (Some(she), true) => language.pronoun("He", she).unwrap_or_default().to_string(),
            (None, true) => if english { "It" } else { "它" }.to_string(),
            _ if english && fact.attribute.family() == Family::Thing => format!("The {name}"),
            _ => name.to_string(),
        };
        fill(template, |slot| match slot {
            "s" => subject.clone(),
            "s's" => match subject.as_str() {
                "He" => "His".to_string(),
                "She" => "Her".to_string(),
                "It" => "Its".to_string(),
                name => format!("{name}'s"),
            },
            "n" => name.to_string(),
            "v" => self.value(fact, language).to_string(),
            "play" => PLAY_ZH[self.value_index(fact)].to_string(),
            other => person
                .and_then(|she| language.pronoun(other, she))
                .unwrap_or_else(|| panic!("nothing fills {{{other}}} in \"{template}\""))
                .to_string(),
        })
    }

    /// Fills the slots of a scene.
    pub(super) fn scene(&self, template: &str, cast: Cast, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let town = self.value_index(Fact { attribute: Attribute::Town, subject: cast.a });
        let person = |slot: &str, subject: usize| match language.pronoun(slot, PEOPLE[subject].1) {
            Some(pronoun) => Some(pronoun.to_string()),
            None if slot == "play" => {
                let fact = Fact { attribute: Attribute::Instrument, subject };
                Some(PLAY_ZH[self.value_index(fact)].to_string())
            }
            None => None,
        };
        let of = |slot: &str, subject: usize| {
            let attribute = Attribute::named(slot).unwrap_or_else(|| panic!("no attribute {slot}"));
            self.value(Fact { attribute, subject }, language).to_string()
        };
        fill(template, |slot| match slot.split_once('.') {
            Some(("a", slot)) => person(slot, cast.a).unwrap_or_else(|| of(slot, cast.a)),
            Some(("b", slot)) => person(slot, cast.b).unwrap_or_else(|| of(slot, cast.b)),
            Some(("t", slot)) => of(slot, town),
            Some(("x", slot)) => of(slot, cast.thing),
            _ => match slot {
                "a" => Family::Person.name(cast.a)[language as usize].to_string(),
                "b" => Family::Person.name(cast.b)[language as usize].to_string(),
                "t" => Family::Town.name(town)[language as usize].to_string(),
                "x" => Family::Thing.name(cast.thing)[language as usize].to_string(),
                "word" => lexicon::any_compound(rng),
                "weather" => rng.choose(prose.weathers).to_string(),
                "season" => rng.choose(prose.seasons).to_string(),
                "name" => self.name.clone(),
                other => panic!("nothing fills {{{other}}} in \"{template}\""),
            },
        })
    }
}
