//! Sums for the calculator. The operands, in either order, decide whether a sum is for training or for the test.

use nanochat_tensor::Rng;

use super::{Split, Stream, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Plus,
    Minus,
    Times,
    Over,
}

/// The sum `a operator b`; a difference is at least 2, a quotient is an integer and at least 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    pub a: u64,
    pub operator: Operator,
    pub b: u64,
}

impl Sum {
    fn draw(rng: &mut Rng) -> Sum {
        // Two- and three-digit numbers most often: one or two tokens, as the tokenizer pairs digits.
        let number = |rng: &mut Rng| {
            let span = *rng.choose(&[18, 98, 98, 998, 998, 9998]);
            2 + rng.below(span) as u64
        };
        let small = |rng: &mut Rng| 2 + rng.below(98) as u64;
        let operator = *rng.choose(&[
            Operator::Plus,
            Operator::Plus,
            Operator::Plus,
            Operator::Minus,
            Operator::Minus,
            Operator::Minus,
            Operator::Times,
            Operator::Times,
            Operator::Over,
        ]);
        let (a, b) = match operator {
            Operator::Plus => (number(rng), number(rng)),
            Operator::Minus => {
                let (x, y) = (number(rng), number(rng));
                (x.max(y) + 2, x.min(y))
            }
            Operator::Times => (small(rng), small(rng)),
            Operator::Over => {
                let (quotient, divisor) = (small(rng), 2 + rng.below(18) as u64);
                (quotient * divisor, divisor)
            }
        };
        Sum { a, operator, b }
    }

    /// Returns the calculator's output.
    pub fn result(self) -> u64 {
        match self.operator {
            Operator::Plus => self.a + self.b,
            Operator::Minus => self.a - self.b,
            Operator::Times => self.a * self.b,
            Operator::Over => self.a / self.b,
        }
    }

    /// Returns the calculator's input, such as `37+58`.
    pub fn code(self) -> String {
        let sign = ["+", "-", "*", "//"][self.operator as usize];
        format!("{}{sign}{}", self.a, self.b)
    }

    /// Returns the sum as people write it, such as `37 + 58`.
    pub fn written(self) -> String {
        let sign = ["+", "-", "×", "÷"][self.operator as usize];
        format!("{} {sign} {}", self.a, self.b)
    }
}

impl World {
    /// Whether a sum is reserved for the test: one pair of operands in five is.
    pub(super) fn is_held_out_sum(&self, sum: Sum) -> bool {
        let (low, high) = (sum.a.min(sum.b), sum.a.max(sum.b));
        Rng::new(&[self.seed, Stream::HeldOutSum as u64, sum.operator as u64, low, high]).below(5) == 0
    }

    pub(super) fn sum(&self, split: Split, rng: &mut Rng) -> Sum {
        loop {
            let sum = Sum::draw(rng);
            if self.is_held_out_sum(sum) == (split == Split::Test) {
                return sum;
            }
        }
    }
}
