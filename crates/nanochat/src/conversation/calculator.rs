//! The calculator that the model calls between `<|python_start|>` and `<|python_end|>`.
//!
//! It accepts the two kinds of Python expression that occur in training text and nothing else: arithmetic
//! (`(12+3)*4/2`, floor division by `//`, no `**`) and letter counting (`'strawberry'.count('r')`). Results equal
//! Python's, with exact integers up to 128 bits, except that a whole float is written as `10`, as in the training text,
//! and not as `10.0`. Length and depth are bounded, so no expression takes long.

/// The maximum length of an expression, in bytes.
const MAX_LEN: usize = 4096;
/// The maximum nesting of parentheses and signs.
const MAX_DEPTH: usize = 64;

/// Returns the value of `expression` as text for the model. Returns `None` if it is neither arithmetic nor counting,
/// divides by zero, or leaves the range of numbers.
pub fn calculate(expression: &str) -> Option<String> {
    if expression.len() > MAX_LEN {
        return None;
    }
    if let Some(count) = count(expression) {
        return Some(count.to_string());
    }
    let digits = expression.replace(',', "");
    let mut parser = Parser { rest: digits.as_bytes(), depth: 0 };
    let value = parser.sum()?;
    if parser.peek().is_some() { None } else { value.print() }
}

/// Evaluates `'text'.count('needle')`, which counts occurrences that do not overlap; an empty needle fits between all
/// letters.
fn count(expression: &str) -> Option<usize> {
    let (text, rest) = string_literal(expression)?;
    let rest = rest.trim_start().strip_prefix(".count")?.trim_start().strip_prefix('(')?;
    let (needle, rest) = string_literal(rest)?;
    if rest.trim() == ")" { Some(text.matches(needle).count()) } else { None }
}

/// Returns the content of the quoted string at the start of `source`, and the rest. Escapes are not supported.
fn string_literal(source: &str) -> Option<(&str, &str)> {
    let source = source.trim_start();
    let quote = source.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (content, rest) = source[1..].split_once(quote)?;
    if content.contains(['\\', '\n']) { None } else { Some((content, rest)) }
}

/// A Python `int` or `float`.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

/// A recursive-descent parser with one function for each level of precedence.
struct Parser<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Parser<'_> {
    /// Returns the next byte that is no space, without consuming it.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn sum(&mut self) -> Option<Number> {
        let mut left = self.product()?;
        while let Some(sign @ (b'+' | b'-')) = self.peek() {
            self.skip(1);
            let right = self.product()?;
            left = if sign == b'+' { left.add(right)? } else { left.add(right.negate()?)? };
        }
        Some(left)
    }

    fn product(&mut self) -> Option<Number> {
        let mut left = self.signed()?;
        while let Some(operator @ (b'*' | b'/')) = self.peek() {
            let floor = self.rest.starts_with(b"//");
            self.skip(if floor { 2 } else { 1 });
            let right = self.signed()?;
            left = match operator {
                b'*' => left.multiply(right)?,
                _ if floor => left.floor_divide(right)?,
                _ => left.divide(right)?,
            };
        }
        Some(left)
    }

    /// Parses a number or a sum in parentheses, after any signs. Only here does the parser recurse.
    fn signed(&mut self) -> Option<Number> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let value = match self.peek()? {
            b'-' => {
                self.skip(1);
                self.signed()?.negate()
            }
            b'+' => {
                self.skip(1);
                self.signed()
            }
            b'(' => {
                self.skip(1);
                let value = self.sum()?;
                (self.peek()? == b')').then(|| self.skip(1))?;
                Some(value)
            }
            _ => self.number(),
        };
        self.depth -= 1;
        value
    }

    fn number(&mut self) -> Option<Number> {
        let len = self.rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
        let literal = str::from_utf8(&self.rest[..len]).ok()?;
        self.skip(len);
        if literal.contains('.') {
            return literal.parse().ok().map(Number::Float);
        }
        let value: i128 = literal.parse().ok()?;
        // 007 is not a valid number, as in Python.
        if literal.starts_with('0') && value != 0 { None } else { Some(Number::Int(value)) }
    }
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Float(value) => value,
        }
    }

    fn negate(self) -> Option<Number> {
        match self {
            Number::Int(value) => value.checked_neg().map(Number::Int),
            Number::Float(value) => Some(Number::Float(-value)),
        }
    }

    fn add(self, other: Number) -> Option<Number> {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a.checked_add(b).map(Number::Int),
            _ => Some(Number::Float(self.float() + other.float())),
        }
    }

    fn multiply(self, other: Number) -> Option<Number> {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a.checked_mul(b).map(Number::Int),
            _ => Some(Number::Float(self.float() * other.float())),
        }
    }

    /// Computes `/`, which is a float even for two integers.
    fn divide(self, other: Number) -> Option<Number> {
        let divisor = other.float();
        match (self, other) {
            _ if divisor == 0.0 => None,
            (Number::Int(a), Number::Int(b)) => Some(Number::Float(quotient(a, b))),
            _ => Some(Number::Float(self.float() / divisor)),
        }
    }

    /// Computes `//`, which rounds towards minus infinity.
    fn floor_divide(self, other: Number) -> Option<Number> {
        if let (Number::Int(a), Number::Int(b)) = (self, other) {
            let quotient = a.checked_div(b)?;
            let rounded_up = a % b != 0 && (a < 0) != (b < 0);
            return Some(Number::Int(quotient - i128::from(rounded_up)));
        }
        let (a, b) = (self.float(), other.float());
        if b == 0.0 {
            return None;
        }
        // Uses the exact remainder, as in CPython: a/b alone may round up to the next integer.
        let remainder = a % b;
        let quotient = ((a - remainder) / b).round();
        let rounded_up = remainder != 0.0 && (remainder < 0.0) != (b < 0.0);
        Some(Number::Float(quotient - f64::from(u8::from(rounded_up))))
    }

    /// Returns the number as Python prints it, but a whole float without its `.0`.
    fn print(self) -> Option<String> {
        let value = match self {
            Number::Int(value) => return Some(value.to_string()),
            Number::Float(0.0) => return Some("0".to_string()), // also -0.0
            Number::Float(value) if value.is_finite() => value,
            Number::Float(_) => return None,
        };
        if (1e-4..1e16).contains(&value.abs()) {
            return Some(value.to_string());
        }
        let scientific = format!("{value:e}");
        let (mantissa, exponent) = scientific.split_once('e')?;
        let exponent: i32 = exponent.parse().ok()?;
        let sign = if exponent < 0 { '-' } else { '+' };
        Some(format!("{mantissa}e{sign}{:02}", exponent.abs()))
    }
}

/// Returns a / b rounded once, as in Python: converting integers above 2^53 to floats first would round them before the
/// division.
fn quotient(a: i128, b: i128) -> f64 {
    let (n, d) = (a.unsigned_abs(), b.unsigned_abs());
    if n.max(d) <= 1 << 53 {
        return a as f64 / b as f64;
    }
    let (mut quotient, mut rest, mut exponent) = (n / d, n % d, 0);
    while quotient < 1 << 64 && rest != 0 {
        rest *= 2; // below 2^128, for d is at most 2^127
        quotient = 2 * quotient + u128::from(rest >= d);
        rest -= if rest >= d { d } else { 0 };
        exponent -= 1;
    }
    // The lowest of at least 64 bits is set if anything is left; it decides between two floats.
    let rounded = (quotient | u128::from(rest != 0)) as f64 * 2f64.powi(exponent);
    if (a < 0) == (b < 0) { rounded } else { -rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(cases: &[(&str, &str)]) {
        for (expression, expected) in cases {
            assert_eq!(calculate(expression).as_deref(), Some(*expected), "{expression}");
        }
    }

    #[test]
    fn arithmetic_is_pythons() {
        check(&[
            ("1+2*3", "7"),
            ("(1+2)*3", "9"),
            ("10-4-3", "3"),
            ("100/10/5", "2"),
            ("2*-3", "-6"),
            ("--5 - -2", "7"),
            ("-7//2", "-4"),
            ("7//-2", "-4"),
            ("-7//-2", "3"),
            ("-(7//2)", "-3"),
            ("7.5//2", "3"),
            ("-7.5//2", "-4"),
            ("1//0.1", "9"),
            ("1,234 + 1", "1235"),
            (" 48/2 ", "24"),
            ("7/2", "3.5"),
            ("10/3", "3.3333333333333335"),
            ("4 / 182607217875346099736515968587", "2.190493917239644e-29"),
            ("-690852 / 749795778533659033646267683323", "-9.213868893088027e-25"),
            ("36893488147419103233 / 3", "1.2297829382473034e+19"),
            ("9007199254740993 / 1", "9007199254740992"),
            ("0.1+0.2", "0.30000000000000004"),
            ("2.5*4", "10"),
            (".5+5.", "5.5"),
            ("0*-1.0", "0"),
            ("1/100000", "1e-05"),
            ("1/10000", "0.0001"),
            ("10000000000000000.0*1.5", "1.5e+16"),
            ("99999999999999999999*10", "999999999999999999990"),
        ]);
    }

    #[test]
    fn letters_are_counted_in_any_script() {
        check(&[
            ("'strawberry'.count('r')", "3"),
            ("\"it's\".count(\"'\")", "1"),
            ("'人山人海'.count('人')", "2"),
            ("'哈哈哈哈哈'.count('哈哈')", "2"),
            ("'一,二,三'.count(',')", "2"),
            ("'abc'.count('')", "4"),
            ("''.count('a')", "0"),
            (" 'abca' .count( 'a' ) ", "2"),
        ]);
    }

    #[test]
    fn everything_else_is_refused() {
        let deep = format!("{}1{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH));
        let long = "1+".repeat(MAX_LEN) + "1";
        let huge = "9".repeat(30) + "*" + &"9".repeat(30);
        for expression in [
            "",
            " ",
            "1+",
            "*2",
            "2**3",
            "2* *3",
            "1 2",
            "1.2.3",
            ".",
            "007",
            "(1",
            "1)",
            "()",
            "1/0",
            "1//0",
            "1.5/0",
            "1//0.0",
            "1e5",
            "x",
            "import os",
            "'a'",
            "'a'.count",
            "'a'.count('b'",
            "'a\\n'.count('n')",
            "'a'.count('a')+1",
            "'a'.upper()",
            "7%2",
            "2**",
            "9**9**9",
            "1<<99",
            "1 if 1 else 2",
            "[1][0]",
            "1j",
            "0x10",
            "1_000",
            "1=1",
            "1;2",
            "(1,2",
            "abs(-1)",
            "__import__('os').system('true')",
            "().__class__.__bases__",
            "open('/etc/passwd').read()",
            "'a'*9999999999",
            "'a'.__class__",
            "'a'.count('a').bit_length()",
            "f'{1}'.count('1')",
            "b'a'.count('a')",
            "'a' 'b'.count('a')",
            "'''a'''.count('a')",
            "1\0+1",
            "٣+٤",
            "１+１",
            "1+é",
            &deep,
            &long,
            &huge,
        ] {
            assert_eq!(calculate(expression), None, "{expression}");
        }
    }

    /// An expression as a tree, evaluated without any parsing.
    #[derive(Clone, Debug)]
    enum Tree {
        Leaf(u32),
        Negative(Box<Tree>),
        Binary(Box<Tree>, &'static str, Box<Tree>),
    }

    impl Tree {
        fn strategy() -> impl Strategy<Value = Tree> {
            (0..1000u32).prop_map(Tree::Leaf).prop_recursive(5, 32, 2, |inner| {
                let operators = prop::sample::select(vec!["+", "-", "*", "/", "//"]);
                prop_oneof![
                    1 => inner.clone().prop_map(|tree| Tree::Negative(Box::new(tree))),
                    4 => (inner.clone(), operators, inner)
                        .prop_map(|(a, operator, b)| Tree::Binary(Box::new(a), operator, Box::new(b))),
                ]
            })
        }

        fn precedence(&self) -> u8 {
            match self {
                Tree::Binary(_, "+" | "-", _) => 0,
                Tree::Binary(..) => 1,
                Tree::Negative(_) | Tree::Leaf(_) => 2,
            }
        }

        /// Returns the expression with parentheses only where the tree's shape needs them.
        fn text(&self, at_least: u8) -> String {
            let text = match self {
                Tree::Leaf(value) => value.to_string(),
                Tree::Negative(inner) => format!("-{}", inner.text(2)),
                Tree::Binary(a, operator, b) => {
                    let level = self.precedence();
                    format!("{} {operator} {}", a.text(level), b.text(level + 1))
                }
            };
            if self.precedence() < at_least { format!("({text})") } else { text }
        }

        /// Returns the value and whether it is a Python int. Floats hold integers exactly up to 2^53.
        fn value(&self) -> Result<(f64, bool), NoValue> {
            let (value, int) = match self {
                Tree::Leaf(value) => (f64::from(*value), true),
                Tree::Negative(inner) => inner.value().map(|(value, int)| (-value, int))?,
                Tree::Binary(a, operator, b) => {
                    let ((a, a_int), (b, b_int)) = (a.value()?, b.value()?);
                    let int = a_int && b_int;
                    match *operator {
                        "+" => (a + b, int),
                        "-" => (a - b, int),
                        "*" => (a * b, int),
                        _ if b == 0.0 => return Err(NoValue::DivisionByZero),
                        "/" => (a / b, false),
                        _ if !int && (a / b).fract() == 0.0 => return Err(NoValue::Unsure),
                        _ => ((a / b).floor(), int),
                    }
                }
            };
            if value.abs() < 2f64.powi(53) { Ok((value, int)) } else { Err(NoValue::Unsure) }
        }
    }

    enum NoValue {
        DivisionByZero,
        /// The value is beyond 2^53, or the quotient was rounded to an integer, so that its floor needs the remainder.
        Unsure,
    }

    proptest! {
        #[test]
        fn agrees_with_the_tree_it_was_printed_from(tree in Tree::strategy()) {
            let text = tree.text(0);
            let found = calculate(&text);
            match tree.value() {
                Err(NoValue::DivisionByZero) => prop_assert_eq!(found, None, "{}", text),
                Err(NoValue::Unsure) => {}
                Ok((value, _)) => {
                    let number: Option<f64> = found.and_then(|found| found.parse().ok());
                    prop_assert_eq!(number, Some(value), "{}", text);
                }
            }
        }

        #[test]
        fn hostile_text_never_panics(text in "[-+*/(). ,0-9'\"a.count人]{0,40}", noise in ".{0,40}") {
            calculate(&text);
            calculate(&noise);
        }

        #[test]
        fn counting_agrees_with_windows_of_letters(text in "[ab人]{0,20}", letter in "[ab人]") {
            let expected = text.chars().filter(|c| letter.starts_with(*c)).count();
            prop_assert_eq!(calculate(&format!("'{text}'.count('{letter}')")), Some(expected.to_string()));
        }
    }
}
