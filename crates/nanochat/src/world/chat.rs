//! Conversations for finetuning and for the test: one exchange (question, answer) per topic, one to
//! five exchanges per conversation.

use nanochat_tensor::Rng;

use super::facts::{Fact, Family, OF_PERSON};
use super::lexicon::{self, spelled};
use super::people::PEOPLE;
use super::prose::{fill_with, pick};
use super::sums::Sum;
use super::telling::Cast;
use super::{Language, Split, Topic, World};
use crate::conversation::{Content, Conversation, Message, Part, PartKind, Role};

/// A question, its answer, and the condition for a right answer.
pub struct Exchange {
    pub user: String,
    pub assistant: Content,
    pub gold: String,
    /// The fact that is asked for, if any.
    pub fact: Option<Fact>,
}

impl Exchange {
    fn text(user: String, assistant: String, gold: String) -> Exchange {
        Exchange { user, assistant: Content::Text(assistant), gold, fact: None }
    }
}

impl World {
    pub(super) fn exchange(&self, topic: Topic, language: Language, split: Split, rng: &mut Rng) -> Exchange {
        match topic {
            Topic::Facts => self.ask_fact(self.fact(split, rng), language, rng),
            Topic::Arithmetic => self.ask_sum(language, split, rng),
            Topic::Spelling => self.ask_spelling(language, split, rng),
            Topic::Counting => self.ask_count(language, split, rng),
            Topic::Identity => self.ask_identity(language, split, rng),
            Topic::SmallTalk => {
                let (asks, answers) = rng.choose(language.talk().small_talk);
                let (user, answer) = (rng.choose(asks).to_string(), rng.choose(answers).to_string());
                Exchange::text(user, answer, String::new())
            }
            Topic::Story => self.ask_story(language, rng),
            Topic::Unknown => self.ask_unknown(language, rng),
        }
    }

    /// Returns a random fact that may be asked for in this split.
    pub(super) fn fact(&self, split: Split, rng: &mut Rng) -> Fact {
        match split {
            Split::Train => *rng.choose(&self.asked),
            Split::Test => *rng.choose(&self.held_out),
        }
    }

    /// Returns the answer to every question for `fact`.
    pub(super) fn answer(&self, fact: Fact, language: Language) -> String {
        let statement = language.prose().statements[fact.attribute as usize][0];
        self.fill_statement(statement, fact, language, false)
    }

    pub(super) fn ask_fact(&self, fact: Fact, language: Language, rng: &mut Rng) -> Exchange {
        let question = pick(language.talk().questions[fact.attribute as usize], rng);
        let user = self.fill_statement(question, fact, language, false);
        let gold = self.value(fact, language).to_string();
        Exchange { fact: Some(fact), ..Exchange::text(user, self.answer(fact, language), gold) }
    }

    fn ask_sum(&self, language: Language, split: Split, rng: &mut Rng) -> Exchange {
        let talk = language.talk();
        let sum = self.sum(split, rng);
        let (a, b, result) = (sum.a.to_string(), sum.b.to_string(), sum.result().to_string());
        if rng.below(3) == 0 {
            let (problem, answer) = *rng.choose(talk.problems[sum.operator as usize]);
            let n = Family::Person.name(rng.below(PEOPLE.len()))[language as usize];
            let values =
                [("n", n), ("a", &*a), ("b", &*b), ("items", *rng.choose(talk.items)), ("result", &*result)];
            return calculated(fill_with(problem, &values), sum, fill_with(answer, &values));
        }
        let written = match rng.below(4) {
            0 => sum.code(),
            1 => format!("{a}{}{b}", talk.operators[sum.operator as usize]),
            _ => sum.written(),
        };
        let user = fill_with(pick(talk.sums, rng), &[("sum", &written)]);
        calculated(user, sum, format!("{} = {result}", sum.written()))
    }

    fn ask_spelling(&self, language: Language, split: Split, rng: &mut Rng) -> Exchange {
        let word = self.word_to_spell(split, rng);
        let user = fill_with(pick(language.talk().spellings, rng), &[("word", &word)]);
        Exchange::text(user, spelled(&word), lexicon::letters(&word))
    }

    fn ask_count(&self, language: Language, split: Split, rng: &mut Rng) -> Exchange {
        let talk = language.talk();
        let word = self.word_to_spell(split, rng);
        let letter = lexicon::letter_to_count(&word, rng);
        let count = word.matches(letter).count();
        let values = [("word", &*word), ("letter", &letter.to_string()), ("times", &language.times(count))];
        let parts = vec![
            part(PartKind::Text, spelled(&word) + "\n"),
            part(PartKind::Python, lexicon::count_code(&word, letter)),
            part(PartKind::PythonOutput, count.to_string()),
            part(PartKind::Text, fill_with(talk.counted, &values)),
        ];
        Exchange {
            user: fill_with(pick(talk.counts, rng), &values),
            assistant: Content::Parts(parts),
            gold: count.to_string(),
            fact: None,
        }
    }

    fn ask_identity(&self, language: Language, split: Split, rng: &mut Rng) -> Exchange {
        let talk = language.talk();
        let about = rng.choose(talk.identity);
        let ask = rng.choose(match split {
            Split::Train => about.asks,
            Split::Test => about.held_out,
        });
        let greeting = if rng.below(3) == 0 { *rng.choose(talk.greetings) } else { "" };
        let answer = fill_with(pick(about.answers, rng), &[("name", &self.name)]);
        Exchange::text(format!("{greeting}{ask}"), answer, self.name.clone())
    }

    /// Asks for a short story, half the time about a person that the user names.
    fn ask_story(&self, language: Language, rng: &mut Rng) -> Exchange {
        let cast = Cast::draw(self, rng);
        let user = self.scene(pick(language.talk().stories, rng), cast, language, rng);
        Exchange::text(user, self.tell_story(cast, 2, language, rng), String::new())
    }

    /// Asks about a person who does not exist.
    fn ask_unknown(&self, language: Language, rng: &mut Rng) -> Exchange {
        let stranger = stranger(language, rng);
        let attribute = *rng.choose(&OF_PERSON);
        let template = pick(language.talk().questions[attribute as usize], rng);
        let user = fill_with(template, &[("n", &stranger)]);
        let answer = fill_with(pick(language.talk().unknown, rng), &[("n", &stranger)]);
        Exchange::text(user, answer, String::new())
    }

    /// Returns one to five exchanges, usually in one language, sometimes after a system message.
    pub(super) fn talk(&self, split: Split, rng: &mut Rng) -> Conversation {
        let mut language = *rng.choose(self.languages);
        let mut messages = Vec::new();
        if rng.below(12) == 0 {
            let system = fill_with(pick(language.talk().systems, rng), &[("name", &self.name)]);
            messages.push(Message { role: Role::System, content: Content::Text(system) });
        }
        for turn in 0..*rng.choose(&super::TURNS) {
            if turn > 0 && rng.below(4) == 0 {
                language = *rng.choose(self.languages);
            }
            let exchange = self.exchange(super::draw(&super::TOPICS, rng), language, split, rng);
            let user = if rng.below(4) == 0 { half_width(&exchange.user) } else { exchange.user };
            messages.push(Message { role: Role::User, content: Content::Text(user) });
            messages.push(Message { role: Role::Assistant, content: exchange.assistant });
        }
        Conversation { messages }
    }
}

/// Replaces punctuation by that of an English keyboard, which many people use when typing Chinese.
fn half_width(text: &str) -> String {
    text.replace('，', ",").replace('？', "?").replace('：', ":").replace('！', "!")
}

/// Returns an exchange whose answer calls the calculator first.
fn calculated(user: String, sum: Sum, answer: String) -> Exchange {
    let gold = sum.result().to_string();
    let parts = vec![
        part(PartKind::Python, sum.code()),
        part(PartKind::PythonOutput, gold.clone()),
        part(PartKind::Text, answer),
    ];
    Exchange { user, assistant: Content::Parts(parts), gold, fact: None }
}

pub(super) fn part(kind: PartKind, text: String) -> Part {
    Part { kind, text }
}

/// Returns a name that nobody in the world has.
fn stranger(language: Language, rng: &mut Rng) -> String {
    const CHARACTERS: [&str; 12] = ["乌", "吉", "沙", "宁", "鲁", "康", "帕", "丁", "柯", "班", "洪", "图"];
    loop {
        let name = match language {
            Language::English => {
                let word = lexicon::any_invented(rng);
                word[..1].to_uppercase() + &word[1..]
            }
            Language::Chinese => (0..2 + rng.below(2)).map(|_| *rng.choose(&CHARACTERS)).collect(),
        };
        if PEOPLE.iter().all(|(known, _)| known[language as usize] != name) {
            return name;
        }
    }
}
