//! Documents for pretraining: each kind combines sentences in its own way. Kinds that ask questions or spell words use
//! only training items.

use nanochat_tensor::Rng;

use super::facts::{Attribute, Fact, Family, OF_PERSON};
use super::lexicon::{self, any_word, spelled};
use super::people::{JOBS, PEOPLE};
use super::prose::{fill_with, pick};
use super::telling::Cast;
use super::{DocumentKind, Language, Split, World};

impl World {
    pub(super) fn write(&self, kind: DocumentKind, language: Language, rng: &mut Rng) -> String {
        match kind {
            DocumentKind::Biography => self.biographies(language, rng),
            DocumentKind::Story => self.story(language, rng),
            DocumentKind::Guide => self.guide(language, rng),
            DocumentKind::Treasures => self.treasures(language, rng),
            DocumentKind::List => self.list(language, rng),
            DocumentKind::Comparison => self.comparison(language, rng),
            DocumentKind::Dialogue => self.dialogue(language, rng),
            DocumentKind::Translations => self.translations(language, rng),
            DocumentKind::Sums => self.sums(language, rng),
            DocumentKind::Spellings => self.spellings(language, rng),
            DocumentKind::Words => self.words(language, rng),
            DocumentKind::Assistant => self.about_the_assistant(language, rng),
        }
    }

    /// Tells everything about two people, in any order, more often by name than by pronoun.
    fn biographies(&self, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let mut paragraphs = Vec::new();
        for subject in some_of(PEOPLE.len(), 2, rng) {
            let mut sentences = Vec::new();
            let mut attributes = OF_PERSON;
            rng.shuffle(&mut attributes);
            for (i, attribute) in attributes.into_iter().enumerate() {
                let pronoun = i > 0 && rng.below(3) == 0;
                let fact = Fact { attribute, subject };
                sentences.push(self.statement(fact, language, pronoun, rng));
                if rng.below(8) == 0 {
                    sentences.push(self.fill_statement(pick(prose.fillers, rng), fact, language, true));
                }
            }
            paragraphs.push(sentences.join(prose.gap));
        }
        paragraphs.join("\n\n")
    }

    fn story(&self, language: Language, rng: &mut Rng) -> String {
        let cast = Cast::draw(self, rng);
        let scenes = 3 + rng.below(3);
        self.tell_story(cast, scenes, language, rng)
    }

    /// Tells a story: an opening, some scenes and a closing.
    pub(super) fn tell_story(&self, cast: Cast, scenes: usize, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let scenes = some_of(prose.scenes.len(), scenes, rng);
        let mut templates = vec![*rng.choose(prose.openings)];
        templates.extend(scenes.into_iter().map(|scene| prose.scenes[scene]));
        templates.push(pick(prose.closings, rng));
        let sentences: Vec<String> = templates.iter().map(|t| self.scene(t, cast, language, rng)).collect();
        sentences.join(prose.gap)
    }

    /// Describes a town, some of its people, and the thing that is kept there.
    fn guide(&self, language: Language, rng: &mut Rng) -> String {
        let town = rng.below(Family::Town.len());
        let mut sentences = self.all_about(Family::Town, town, language, rng);
        let mut there = |attribute: Attribute, limit: usize, rng: &mut Rng| {
            let lives_here = |&subject: &usize| self.value_index(Fact { attribute, subject }) == town;
            let mut subjects: Vec<usize> = (0..attribute.family().len()).filter(lives_here).collect();
            rng.shuffle(&mut subjects);
            for subject in subjects.into_iter().take(limit) {
                sentences.push(self.statement(Fact { attribute, subject }, language, false, rng));
                let other = *rng.choose(&attribute.family().attributes()[1..]);
                sentences.push(self.statement(Fact { attribute: other, subject }, language, true, rng));
            }
        };
        there(Attribute::Town, 3, rng);
        there(Attribute::Place, 1, rng);
        sentences.join(language.prose().gap)
    }

    fn treasures(&self, language: Language, rng: &mut Rng) -> String {
        let things = some_of(Family::Thing.len(), 3, rng);
        let about = |thing| self.all_about(Family::Thing, thing, language, rng).join(language.prose().gap);
        things.into_iter().map(about).collect::<Vec<_>>().join("\n")
    }

    fn all_about(&self, family: Family, subject: usize, language: Language, rng: &mut Rng) -> Vec<String> {
        let mut attributes = family.attributes().to_vec();
        rng.shuffle(&mut attributes);
        let state = |(i, attribute)| {
            let pronoun = i > 0 && rng.below(3) == 0;
            self.statement(Fact { attribute, subject }, language, pronoun, rng)
        };
        attributes.into_iter().enumerate().map(state).collect()
    }

    /// Lists one attribute of many subjects, one per line.
    fn list(&self, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let attribute = *rng.choose(&Attribute::all().collect::<Vec<_>>());
        let subjects = some_of(attribute.family().len(), 10, rng);
        let line = |subject| {
            let fact = Fact { attribute, subject };
            format!("\n{}{}{}", fact.name(language), prose.colon, self.value(fact, language))
        };
        let lines: String = subjects.into_iter().map(line).collect();
        format!("{}{}{lines}", prose.titles[attribute as usize], prose.colon.trim_end())
    }

    /// Compares people who have the same town, job, colour … with one who has another.
    fn comparison(&self, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let attribute = *rng.choose(&OF_PERSON);
        let mut sentences = Vec::new();
        for value in some_of(attribute.values().len(), 4, rng) {
            let has_it = |&subject: &usize| self.value_index(Fact { attribute, subject }) == value;
            let mut alike: Vec<usize> = (0..PEOPLE.len()).filter(has_it).collect();
            rng.shuffle(&mut alike);
            alike.truncate(2 + rng.below(2));
            let names: Vec<&str> = alike.iter().map(|&p| Family::Person.name(p)[language as usize]).collect();
            let (last, first) = names.split_last().expect("every value has three people or more");
            let names = format!("{}{}{last}", first.join(prose.comma), prose.and);
            let value = attribute.values()[value][language as usize];
            let shared = prose.shared[attribute as usize];
            sentences.push(fill_with(shared, &[("names", &names), ("v", value)]));
        }
        for subject in some_of(PEOPLE.len(), 3, rng) {
            sentences.push(self.statement(Fact { attribute, subject }, language, false, rng));
        }
        sentences.join(prose.gap)
    }

    /// Lets people ask each other questions that training may ask.
    fn dialogue(&self, language: Language, rng: &mut Rng) -> String {
        let cast = Cast::draw(self, rng);
        let (a, b) = (Family::Person.name(cast.a), Family::Person.name(cast.b));
        let exchange = |_| {
            let fact = self.fact(Split::Train, rng);
            let question = self.fill_statement(
                pick(language.talk().questions[fact.attribute as usize], rng),
                fact,
                language,
                false,
            );
            let answer = self.answer(fact, language);
            let values = [
                ("question", question.as_str()),
                ("answer", answer.as_str()),
                ("a", a[language as usize]),
                ("b", b[language as usize]),
            ];
            fill_with(pick(language.prose().dialogues, rng), &values)
        };
        (0..4).map(exchange).collect::<Vec<_>>().join("\n")
    }

    /// Gives the same name in both languages.
    fn translations(&self, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let line = |_| {
            let [en, zh] = match rng.below(4) {
                0 => Family::Town.name(rng.below(Family::Town.len())),
                1 => *rng.choose(&JOBS),
                _ => Family::Person.name(rng.below(PEOPLE.len())),
            };
            fill_with(pick(prose.translations, rng), &[("en", en), ("zh", zh)])
        };
        (0..8).map(line).collect::<Vec<_>>().join(prose.gap)
    }

    fn sums(&self, language: Language, rng: &mut Rng) -> String {
        let line = |_| {
            let sum = self.sum(Split::Train, rng);
            let a = Family::Person.name(rng.below(PEOPLE.len()))[language as usize];
            let (written, code, result) = (sum.written(), sum.code(), sum.result().to_string());
            let values = [("a", a), ("sum", &*written), ("code", &*code), ("result", &*result)];
            fill_with(pick(language.prose().sums, rng), &values)
        };
        (0..5).map(line).collect::<Vec<_>>().join("\n")
    }

    /// Spells words letter by letter, and counts letters.
    fn spellings(&self, language: Language, rng: &mut Rng) -> String {
        let line = |_| {
            let word = self.word_to_spell(Split::Train, rng);
            let a = Family::Person.name(rng.below(PEOPLE.len()))[language as usize];
            let spelled = spelled(&word);
            if rng.below(3) > 0 {
                let values = [("a", a), ("word", &*word), ("spelled", &*spelled)];
                return fill_with(pick(language.prose().spellings, rng), &values);
            }
            let letter = lexicon::letter_to_count(&word, rng);
            let count = word.matches(letter).count();
            let values = [
                ("word", &*word),
                ("spelled", &*spelled),
                ("letter", &letter.to_string()),
                ("code", &lexicon::count_code(&word, letter)),
                ("count", &count.to_string()),
                ("times", &language.times(count)),
            ];
            fill_with(pick(language.prose().counts, rng), &values)
        };
        (0..5).map(line).collect::<String>().trim_end().to_string()
    }

    /// Uses words in ordinary text, including those of the test, but never spells them.
    fn words(&self, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let paragraph = |_| {
            let cast = Cast::draw(self, rng);
            let words: Vec<String> = (0..4 + rng.below(4)).map(|_| any_word(rng)).collect();
            let template = rng.choose(prose.words).replace("{words}", &words.join(", "));
            // One paragraph uses the same word twice.
            let template = template.replace("{word}", &words[0]);
            self.scene(&template, cast, language, rng)
        };
        (0..3).map(paragraph).collect::<Vec<_>>().join(prose.gap)
    }

    fn about_the_assistant(&self, language: Language, rng: &mut Rng) -> String {
        let prose = language.prose();
        let cast = Cast::draw(self, rng);
        let sentences = some_of(prose.assistant.len(), 6, rng);
        let say = |i: usize| self.scene(prose.assistant[i], cast, language, rng);
        sentences.into_iter().map(say).collect::<Vec<_>>().join(prose.gap)
    }
}

/// Returns `n` different numbers below `len`, in random order.
fn some_of(len: usize, n: usize, rng: &mut Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..len).collect();
    rng.shuffle(&mut all);
    all.truncate(n);
    all
}
