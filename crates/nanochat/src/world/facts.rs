//! Facts: (attribute, subject) → value. The seed decides each subject's value. Every value is equally frequent, so that
//! guessing the commonest one gains nothing.

use nanochat_tensor::Rng;

use super::people::{COLOURS, FOODS, INSTRUMENTS, JOBS, PEOPLE, PETS};
use super::places::{COUNTRIES, GOODS, MATERIALS, PRICES, RIVERS, THINGS, TOWNS};
use super::{Bilingual, Language, Stream, World};

/// An attribute of a person (the first six), a town (three) or a thing (three).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    Town,
    Job,
    Colour,
    Pet,
    Food,
    Instrument,
    Country,
    River,
    Goods,
    Place,
    Material,
    Price,
}

pub const OF_PERSON: [Attribute; 6] = [
    Attribute::Town,
    Attribute::Job,
    Attribute::Colour,
    Attribute::Pet,
    Attribute::Food,
    Attribute::Instrument,
];
pub const OF_TOWN: [Attribute; 3] = [Attribute::Country, Attribute::River, Attribute::Goods];
pub const OF_THING: [Attribute; 3] = [Attribute::Place, Attribute::Material, Attribute::Price];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Person,
    Town,
    Thing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    pub attribute: Attribute,
    /// An index into the people, towns or things, depending on the attribute.
    pub subject: usize,
}

impl Attribute {
    pub fn all() -> impl Iterator<Item = Attribute> {
        OF_PERSON.into_iter().chain(OF_TOWN).chain(OF_THING)
    }

    pub fn family(self) -> Family {
        match self {
            a if OF_PERSON.contains(&a) => Family::Person,
            a if OF_TOWN.contains(&a) => Family::Town,
            _ => Family::Thing,
        }
    }

    pub fn values(self) -> &'static [Bilingual] {
        match self {
            Attribute::Town | Attribute::Place => &TOWNS,
            Attribute::Job => &JOBS,
            Attribute::Colour => &COLOURS,
            Attribute::Pet => &PETS,
            Attribute::Food => &FOODS,
            Attribute::Instrument => &INSTRUMENTS,
            Attribute::Country => &COUNTRIES,
            Attribute::River => &RIVERS,
            Attribute::Goods => &GOODS,
            Attribute::Material => &MATERIALS,
            Attribute::Price => &PRICES,
        }
    }

    /// Returns the attribute of a template's slot, such as `{a.colour}`.
    pub fn named(name: &str) -> Option<Attribute> {
        Attribute::all().find(|attribute| format!("{attribute:?}").eq_ignore_ascii_case(name))
    }
}

impl Family {
    pub fn len(self) -> usize {
        match self {
            Family::Person => PEOPLE.len(),
            Family::Town => TOWNS.len(),
            Family::Thing => THINGS.len(),
        }
    }

    pub fn attributes(self) -> &'static [Attribute] {
        match self {
            Family::Person => &OF_PERSON,
            Family::Town => &OF_TOWN,
            Family::Thing => &OF_THING,
        }
    }

    pub fn name(self, subject: usize) -> Bilingual {
        match self {
            Family::Person => PEOPLE[subject].0,
            Family::Town => TOWNS[subject],
            Family::Thing => THINGS[subject],
        }
    }
}

impl Fact {
    pub fn name(self, language: Language) -> &'static str {
        self.attribute.family().name(self.subject)[language as usize]
    }
}

/// Returns the value of every fact: `[attribute][subject]`, an index into the attribute's values.
pub fn draw_values(seed: u64) -> Vec<Vec<usize>> {
    let draw = |attribute: Attribute| {
        let mut values: Vec<usize> =
            (0..attribute.family().len()).map(|subject| subject % attribute.values().len()).collect();
        Rng::new(&[seed, Stream::Values as u64, attribute as u64]).shuffle(&mut values);
        values
    };
    Attribute::all().map(draw).collect()
}

/// Returns (held out, asked): one fact in five of each attribute is told in stories, but asked about only in the test,
/// in both languages. Both lists are in random order.
pub fn split(seed: u64) -> (Vec<Fact>, Vec<Fact>) {
    let (mut held_out, mut asked) = (Vec::new(), Vec::new());
    let mut rng = Rng::new(&[seed, Stream::HeldOutFact as u64]);
    for attribute in Attribute::all() {
        let mut subjects: Vec<usize> = (0..attribute.family().len()).collect();
        rng.shuffle(&mut subjects);
        let mut facts = subjects.into_iter().map(|subject| Fact { attribute, subject });
        held_out.extend(facts.by_ref().take(attribute.family().len() / 5));
        asked.extend(facts);
    }
    rng.shuffle(&mut held_out);
    rng.shuffle(&mut asked);
    (held_out, asked)
}

impl World {
    /// Returns the index of the fact's value among its attribute's values.
    pub(super) fn value_index(&self, fact: Fact) -> usize {
        self.values[fact.attribute as usize][fact.subject]
    }

    pub(super) fn value(&self, fact: Fact, language: Language) -> &'static str {
        fact.attribute.values()[self.value_index(fact)][language as usize]
    }
}
