//! Facts and scenes of the world as sentences: what fills the slots of the [tables](super::prose).

use nanochat_tensor::Rng;

use super::facts::{Attribute, Fact, Family};
use super::people::{PEOPLE, PLAY_ZH};
use super::prose::fill;
use super::{Language, World, lexicon};

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

impl Language {
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
