//! Checks which regular expressions mean the same here and in `tokenizers`.
//!
//! `tokenizers` uses Oniguruma with Ruby's syntax, we use `fancy-regex`. The constructs allowed here were compared:
//! each property and class on every code point, the others on random text. Elsewhere the two differ: `\w` contains ² in
//! one and the zero-width joiner in the other, `^` is the start of a line or only of the text, `a{2}+` repeats or is
//! possessive.

/// The properties with the same characters in both: general categories, and the scripts that split patterns use.
const PROPERTIES: &str = "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Co Cn \
    Han Hiragana Katakana Hangul Latin Cyrillic Greek Arabic Hebrew Thai Devanagari";

const GROUPS: [&str; 7] = ["(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"];

/// Letter pairs that in Oniguruma also match one character when case is ignored: ß, ﬀ, ﬁ, ﬂ, ﬆ.
const LIGATURES: [&str; 5] = ["ss", "ff", "fi", "fl", "st"];

/// Returns `pattern` as written for `fancy-regex`: `$` is also the end of a line. An error is the first construct that
/// the two may read differently.
pub(super) fn translated(pattern: &str) -> Result<String, &str> {
    let mut reader = PatternReader { rest: pattern, classes: 0, groups: Vec::new() };
    let mut translated = String::with_capacity(pattern.len());
    while !reader.rest.is_empty() {
        let in_class = reader.classes > 0;
        let length = reader.construct().map_err(|length| reader.head(length))?;
        let (construct, rest) = reader.rest.split_at(length);
        translated.push_str(if construct == "$" && !in_class { "(?m:$)" } else { construct });
        reader.rest = rest;
    }
    Ok(translated)
}

struct PatternReader<'p> {
    rest: &'p str,
    /// The number of open brackets.
    classes: usize,
    /// For each open group, whether case is ignored.
    groups: Vec<bool>,
}

impl<'p> PatternReader<'p> {
    /// Returns the length in bytes of the next construct; an error has the same if it is not allowed.
    fn construct(&mut self) -> Result<usize, usize> {
        let starts = |text: &str| self.rest.starts_with(text);
        let any_case = self.groups.last().copied().unwrap_or(false);
        match self.rest.chars().next().expect("a rest") {
            '\\' => self.escape(any_case),
            '[' if self.classes > 0 && starts("[:") || any_case && starts("[^") => Err(2),
            '[' => {
                self.classes += 1;
                // The first bracket of a class closes nothing.
                Ok(["[^]", "[]", "[^"]
                    .iter()
                    .find(|open| self.rest.starts_with(**open))
                    .map_or(1, |open| open.len()))
            }
            ']' if self.classes > 0 => {
                self.classes -= 1;
                Ok(1)
            }
            c if any_case && !c.is_ascii() => Err(c.len_utf8()),
            _ if self.classes > 0 && (starts("--") || starts("~~")) => Err(2),
            c if self.classes > 0 => Ok(c.len_utf8()),
            '(' => self.group(any_case),
            ')' => {
                self.groups.pop();
                Ok(1)
            }
            '^' => Err(1),
            '{' => self.repetition(),
            _ if any_case && LIGATURES.iter().any(|pair| self.head(2).eq_ignore_ascii_case(pair)) => Err(2),
            c => Ok(c.len_utf8()),
        }
    }

    fn group(&mut self, any_case: bool) -> Result<usize, usize> {
        if !self.rest.starts_with("(?") {
            self.groups.push(any_case);
            return Ok(1);
        }
        let open = GROUPS.iter().find(|open| self.rest.starts_with(**open)).ok_or(3usize)?;
        self.groups.push(any_case || *open == "(?i:");
        Ok(open.len())
    }

    /// Reads `{2,3}` and the like; other braces are characters.
    fn repetition(&self) -> Result<usize, usize> {
        let counts = self.rest[1..].find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(0);
        let end = 1 + counts;
        if counts == 0 || !self.rest[end..].starts_with('}') {
            return Ok(1);
        }
        match self.rest[end + 1..].starts_with(['+', '?']) {
            true => Err(end + 2),
            false => Ok(end + 1),
        }
    }

    fn escape(&self, any_case: bool) -> Result<usize, usize> {
        let Some(c) = self.rest[1..].chars().next() else { return Err(1) };
        match c {
            's' | 'S' | 'd' | 'D' | 'r' | 'n' | 't' | 'f' | 'v' => Ok(2),
            '<' | '>' => Err(2),
            ' '..='/' | ':'..='@' | '['..='`' | '{'..='~' => Ok(2),
            'p' | 'P' if self.rest[2..].starts_with('{') => {
                let length = self.rest.find('}').map_or(self.rest.len(), |end| end + 1);
                let name = self.rest[3..].split('}').next().unwrap_or_default();
                let name = name.strip_prefix('^').unwrap_or(name);
                let known = PROPERTIES.split_ascii_whitespace().any(|property| property == name);
                if known && !any_case { Ok(length) } else { Err(length) }
            }
            'x' if self.rest[2..].starts_with('{') && !any_case => {
                Ok(self.rest.find('}').map_or(self.rest.len(), |end| end + 1))
            }
            'u' if self.rest[2..].starts_with(|c: char| c.is_ascii_hexdigit()) && !any_case => Ok(2),
            c => Err(1 + c.len_utf8()),
        }
    }

    /// Returns at most `length` bytes of the rest.
    fn head(&self, length: usize) -> &'p str {
        let end =
            (length..self.rest.len()).find(|end| self.rest.is_char_boundary(*end)).unwrap_or(self.rest.len());
        &self.rest[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_in_use_are_read_alike() {
        for pattern in [
            super::super::DEFAULT_PATTERN,
            super::super::steps::GPT2_PATTERN,
            // The patterns of cl100k, o200k, DeepSeek (three), BLOOM and Kimi.
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+(?!\S)",
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"[\p{Han}]+|[\p{Lu}\p{M}&&[^\p{Han}]]+|[]a]|[^]a]|{a}|\x{4e00}|\u4e00",
        ] {
            assert_eq!(translated(pattern).as_deref(), Ok(pattern));
        }
    }

    #[test]
    fn a_dollar_is_the_end_of_a_line() {
        assert_eq!(translated(r"\s+$|[$]\$").as_deref(), Ok(r"\s+(?m:$)|[$]\$"));
    }

    #[test]
    fn what_is_read_differently_is_named() {
        for (pattern, construct) in [
            (r"a|\w+", r"\w"),
            (r"\bx", r"\b"),
            ("^a", "^"),
            ("(?s).+", "(?s"),
            ("(?m:.)", "(?m"),
            ("[[:alpha:]]", "[:"),
            (r"[\p{L}--é]", "--"),
            ("a{1,2}+", "{1,2}+"),
            (r"\p{Alphabetic}", r"\p{Alphabetic}"),
            (r"\p{^Word}", r"\p{^Word}"),
            (r"\pL", r"\p"),
            ("(?i:straSSe)", "st"),
            ("(?i:é)", "é"),
            (r"\é", r"\é"),
            (r"(?i:a|(\p{Lu}))", r"\p{Lu}"),
            (r"\<a", r"\<"),
            ("(?", "(?"),
            ("\\", "\\"),
        ] {
            assert_eq!(translated(pattern), Err(construct), "{pattern}");
        }
    }
}
