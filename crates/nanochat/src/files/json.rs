//! Parses JSON as it occurs in data files. Python's `json.dumps` writes `NaN` and `Infinity`, and half of a surrogate
//! pair if a text was cut inside an emoji. JSON allows neither (RFC 8259), but Python reads both.

use serde_json::Value;

/// The changes that `parse` made so that a text could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// The number of `NaN`, `Infinity` and `-Infinity`, read as null.
    pub numbers: usize,
    /// The number of halves of surrogate pairs such as `\ud83d`, read as U+FFFD.
    pub surrogates: usize,
}

/// Parses a JSON text. An error describes, in words, the text as it was before any changes.
pub fn parse(text: &[u8]) -> Result<(Value, Mended), String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("not UTF-8 ({error})"))?;
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok((value, Mended::default())),
        Err(error) => error,
    };
    let (text, mended) = mend(text);
    match serde_json::from_str(&text) {
        Ok(value) if mended != Mended::default() => Ok((value, mended)),
        _ => Err(format!("not JSON ({error})")),
    }
}

/// Returns `text` with null in place of `NaN` and infinities, and U+FFFD in place of halves of surrogate pairs.
fn mend(text: &str) -> (String, Mended) {
    let mut mended = Mended::default();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut inside_string = false;
    while let Some(first) = rest.chars().next() {
        let number = ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| rest.starts_with(name));
        let length = match (inside_string, first) {
            (false, _) if number.is_some() => {
                out.push_str("null");
                mended.numbers += 1;
                rest = &rest[number.map_or(0, str::len)..];
                continue;
            }
            (true, '\\') => match (unit(rest), rest.get(6..).and_then(unit)) {
                (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
                (Some(0xd800..0xe000), _) => {
                    out.push('\u{fffd}');
                    mended.surrogates += 1;
                    rest = &rest[6..];
                    continue;
                }
                (Some(_), _) => 6,
                // An escaped quote or backslash does not end the string.
                (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            },
            (_, '"') => {
                inside_string = !inside_string;
                1
            }
            _ => first.len_utf8(),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    (out, mended)
}

/// Returns the UTF-16 unit of an escape such as `\ud83d` at the start of `text`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn mended(numbers: usize, surrogates: usize) -> Mended {
        Mended { numbers, surrogates }
    }

    #[test]
    fn numbers_and_halves_of_pairs_are_read_as_python_reads_them() {
        let cases = [
            (
                r#"{"a": NaN, "b": [-Infinity, Infinity]}"#,
                json!({"a": null, "b": [null, null]}),
                mended(3, 0),
            ),
            (r#"{"a": "NaN \"NaN\" \\", "b": NaN}"#, json!({"a": "NaN \"NaN\" \\", "b": null}), mended(1, 0)),
            (r#"["hi \ud83d", "\ude00\ud83d\ude00"]"#, json!(["hi \u{fffd}", "\u{fffd}😀"]), mended(0, 2)),
            (r#"["\ud83d\ud83d\ude00\\ud83d"]"#, json!(["\u{fffd}😀\\ud83d"]), mended(0, 1)),
            (r#"["\ud83dé"]"#, json!(["\u{fffd}é"]), mended(0, 1)),
            (r#"["NaN"]"#, json!(["NaN"]), mended(0, 0)),
        ];
        for (text, value, count) in cases {
            assert_eq!(parse(text.as_bytes()), Ok((value, count)), "{text}");
        }
    }

    #[test]
    fn other_mistakes_stay_mistakes() {
        for text in
            ["", "{", "NaN NaN", "[nan]", r#"["\ud83"#, r#"["\u12"]"#, "\\ud83d", "\"\\", r#"{NaN: 1}"#]
        {
            assert!(parse(text.as_bytes()).unwrap_err().starts_with("not JSON ("), "{text}");
        }
        assert!(parse(b"\xff").unwrap_err().starts_with("not UTF-8"));
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in r#"(\\u|\\|"|NaN|d83d|[é😀\[\]{},:0])*"#) {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn valid_text_is_mended_to_itself(text: String) {
            let json = serde_json::to_string(&[text]).unwrap();
            prop_assert_eq!(mend(&json), (json, Mended::default()));
        }
    }
}
