//! Sums asked in Chinese, in digits or in numerals (三十七加五十八), answered with the calculator. One pair of operands in
//! five is reserved for the test.

use nanochat_tensor::Rng;

use super::Conversations;
use crate::chat::tasks::Split;
use crate::conversation::{Content, Conversation, Message, Part, PartKind, Role};
use crate::files::file_error::FileError;

/// The number of problems, the same as of nanochat's own SpellingBee in mid-training.
const LEN: usize = 80_000;
const SEED: u64 = 42;

pub struct ZhArithmetic {
    pub split: Split,
}

const OPERATORS: [(&str, &str); 3] = [("加", "+"), ("减", "-"), ("乘", "*")];
const QUESTIONS: [&str; 5] =
    ["{}等于多少？", "请计算{}。", "{}是多少？", "算一算：{}", "请问{}的结果是什么？"];

impl Conversations for ZhArithmetic {
    fn len(&self) -> usize {
        LEN
    }

    fn get(&self, index: usize) -> Result<Conversation, FileError> {
        let rng = &mut Rng::new(&[SEED, self.split as u64, index as u64]);
        let (operator, a, b) = loop {
            let operator = rng.below(3);
            let most = if operator == 2 { 98 } else { 9_998 };
            let (x, y) = (1 + rng.below(most), 1 + rng.below(most));
            let held_out = Rng::new(&[SEED, 2, x.min(y) as u64, x.max(y) as u64]).below(5) == 0;
            if held_out == (self.split == Split::Test) {
                break (operator, x.max(y), x.min(y));
            }
        };
        let (word, sign) = OPERATORS[operator];
        let result = [a + b, a - b, a * b][operator];
        let asked = match rng.below(2) {
            0 => format!("{a}{word}{b}"),
            _ => format!("{}{word}{}", numeral(a), numeral(b)),
        };
        let part = |kind, text: String| Part { kind, text };
        let answer = vec![
            part(PartKind::Python, format!("{a}{sign}{b}")),
            part(PartKind::PythonOutput, result.to_string()),
            part(PartKind::Text, format!("{asked}等于{result}。\n#### {result}")),
        ];
        let user = Content::Text(rng.choose(&QUESTIONS).replace("{}", &asked));
        Ok(Conversation {
            messages: vec![
                Message { role: Role::User, content: user },
                Message { role: Role::Assistant, content: Content::Parts(answer) },
            ],
        })
    }
}

/// Returns 0 to 99,999 in Chinese numerals: 10 is 十, 105 一百零五, 2,010 二千零一十.
fn numeral(n: usize) -> String {
    const DIGITS: [&str; 10] = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九"];
    const UNITS: [&str; 5] = ["", "十", "百", "千", "万"];
    if (10..20).contains(&n) {
        return format!("十{}", if n == 10 { "" } else { DIGITS[n - 10] });
    }
    let (mut text, mut gap) = (String::new(), false);
    for place in (0..5).rev() {
        let digit = n / 10usize.pow(place) % 10;
        if digit == 0 {
            gap = !text.is_empty();
            continue;
        }
        if gap {
            text.push_str(DIGITS[0]);
        }
        text.push_str(DIGITS[digit]);
        text.push_str(UNITS[place as usize]);
        gap = false;
    }
    if text.is_empty() { DIGITS[0].into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerals_are_as_people_say_them() {
        let cases = [
            (0, "零"),
            (7, "七"),
            (10, "十"),
            (15, "十五"),
            (37, "三十七"),
            (105, "一百零五"),
            (110, "一百一十"),
            (2_010, "二千零一十"),
            (9_999, "九千九百九十九"),
            (10_003, "一万零三"),
        ];
        assert_eq!(cases.map(|(n, _)| numeral(n)), cases.map(|(_, text)| text));
    }

    #[test]
    fn answers_are_right_and_the_test_is_apart() {
        let code = |split, i| match &(ZhArithmetic { split }).get(i).unwrap().messages[1].content {
            Content::Parts(parts) => {
                assert_eq!(
                    crate::conversation::calculator::calculate(&parts[0].text).as_ref(),
                    Some(&parts[1].text)
                );
                parts[0].text.clone()
            }
            Content::Text(text) => panic!("{text} uses no tool"),
        };
        let train: std::collections::HashSet<_> = (0..3_000).map(|i| code(Split::Train, i)).collect();
        assert!((0..1_000).all(|i| !train.contains(&code(Split::Test, i))));
    }
}
