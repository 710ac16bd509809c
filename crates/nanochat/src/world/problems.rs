//! Two-step word problems: two changes to a number of things, told in sentences that fit together in any
//! combination, each calculated with the tool. The answer ends with `#### n`, as GSM8K's do.
//!
//! One pair of operands of the first sum in five is reserved for the test, as in [`super::sums`], so a problem of the
//! test never occurs in training.

use nanochat_tensor::Rng;

use super::chat::{Exchange, part};
use super::facts::Family;
use super::people::PEOPLE;
use super::prose::{fill_with, pick};
use super::sums::{Operator, Sum};
use super::{Language, Split, Stream, World};
use crate::conversation::{Content, Conversation, Message, PartKind, Role};

/// The sentences of a language for problems, with a person `{n}`, numbers `{a}`, `{b}`, `{c}`, and `{items}`,
/// `{result}`.
pub struct Problems {
    /// Sentences for a number of things: `{a}`.
    pub start: &'static [&'static str],
    /// Sentences for a number of things as a product: `{a}` times `{b}`.
    pub groups: &'static [&'static str],
    /// Sentences for adding and for taking away `{b}` things, by operator.
    pub changes: [&'static [&'static str]; 2],
    pub ask: &'static [&'static str],
    pub answer: &'static str,
    /// The separator of two sentences.
    pub space: &'static str,
}

/// The calculation `first`, then `second` with the result of `first` on its left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoSteps {
    pub first: Sum,
    pub second: Sum,
}

impl TwoSteps {
    fn draw(rng: &mut Rng) -> TwoSteps {
        let number = |rng: &mut Rng, most: u64| 2 + rng.below(most.clamp(3, 97) as usize - 2) as u64;
        let operator = *rng.choose(&[Operator::Plus, Operator::Plus, Operator::Minus, Operator::Times]);
        let first = match operator {
            Operator::Times => Sum { a: number(rng, 20), operator, b: number(rng, 20) },
            Operator::Minus => {
                let a = 6 + number(rng, 97);
                Sum { a, operator, b: number(rng, a - 4) }
            }
            _ => Sum { a: number(rng, 97), operator, b: number(rng, 97) },
        };
        let left = first.result();
        let operator = *rng.choose(&[Operator::Plus, Operator::Minus]);
        // A difference needs a number large enough to subtract from.
        let (operator, most) = if operator == Operator::Minus && left >= 6 {
            (operator, left - 2)
        } else {
            (Operator::Plus, 97)
        };
        TwoSteps { first, second: Sum { a: left, operator, b: number(rng, most) } }
    }
}

impl World {
    /// Returns word problem number `index` of an endless stream, with its answer.
    pub fn problem(&self, split: Split, index: u64) -> Conversation {
        let rng = &mut self.stream(Stream::Problem, split, index);
        let language = *rng.choose(self.languages);
        let Exchange { user, assistant, .. } = self.ask_problem(language, split, rng);
        let user = Message { role: Role::User, content: Content::Text(user) };
        Conversation { messages: vec![user, Message { role: Role::Assistant, content: assistant }] }
    }

    pub(super) fn two_steps(&self, split: Split, rng: &mut Rng) -> TwoSteps {
        loop {
            let TwoSteps { first, second } = TwoSteps::draw(rng);
            let fits = match split {
                Split::Train => !self.is_held_out_sum(first) && !self.is_held_out_sum(second),
                Split::Test => self.is_held_out_sum(first),
            };
            if fits {
                return TwoSteps { first, second };
            }
        }
    }

    pub(super) fn ask_problem(&self, language: Language, split: Split, rng: &mut Rng) -> Exchange {
        let problems = &language.talk().two_steps;
        let TwoSteps { first, second } = self.two_steps(split, rng);
        let n = Family::Person.name(rng.below(PEOPLE.len()))[language as usize];
        let items = *rng.choose(language.talk().items);
        let result = second.result().to_string();
        let fill = |template: &str, a: u64, b: u64| {
            let (a, b) = (a.to_string(), b.to_string());
            fill_with(template, &[("n", n), ("a", &a), ("b", &b), ("items", items), ("result", &result)])
        };
        let change =
            |sum: Sum, rng: &mut Rng| fill(pick(problems.changes[sum.operator as usize], rng), sum.a, sum.b);
        let mut told = match first.operator {
            Operator::Times => vec![fill(pick(problems.groups, rng), first.a, first.b)],
            _ => vec![fill(pick(problems.start, rng), first.a, 0), change(first, rng)],
        };
        told.push(change(second, rng));
        told.push(fill(pick(problems.ask, rng), 0, 0));
        let steps = [first, second].map(|sum| {
            [part(PartKind::Python, sum.code()), part(PartKind::PythonOutput, sum.result().to_string())]
        });
        let mut parts = steps.concat();
        parts.push(part(PartKind::Text, format!("{}\n#### {result}", fill(problems.answer, 0, 0))));
        Exchange {
            user: told.join(problems.space),
            assistant: Content::Parts(parts),
            gold: result,
            fact: None,
        }
    }
}
