//! Splits Rust source into tokens, as far as needed to find the paths that a file names.

/// Returns names, `::` and single punctuation marks in order, without comments, literals and lifetimes.
pub fn tokens(source: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), source);
    while let Some(c) = rest.chars().next() {
        let len = match c {
            _ if c.is_whitespace() => c.len_utf8(),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => quoted(rest),
            'r' if raw_string(rest).is_some() => raw_string(rest).expect("just seen"),
            '\'' => char_or_lifetime(rest),
            _ => {
                let name = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
                let len = match name {
                    0 if rest.starts_with("::") => 2,
                    0 => c.len_utf8(),
                    name => name,
                };
                // The r of br"…" is part of the string.
                let len = if matches!(&rest[..len], "br" | "cr") { 1 } else { len };
                tokens.push(&rest[..len]);
                len
            }
        };
        rest = &rest[len..];
    }
    tokens
}

pub fn is_name(token: &str) -> bool {
    token.starts_with(is_of_name)
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the length of the string or character literal whose quote begins `text`.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of r"…" or r#"…"# if `text` begins with it.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|&byte| byte == b'#').count();
    let inside = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(2 + hashes + inside.find(&end)? + end.len())
}

fn char_or_lifetime(text: &str) -> usize {
    let mut chars = text[1..].chars();
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text),
        _ => 1, // the lifetime's name remains, which is no path
    }
}

/// Returns the tokens without items that are built only for tests, and the names of the files among these.
pub fn without_tests(tokens: Vec<&str>) -> (Vec<&str>, Vec<&str>) {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut files, mut rest) = (Vec::new(), Vec::new(), tokens.as_slice());
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(&TEST) {
            None => {
                kept.push(*first);
                rest = after;
            }
            Some(item) => {
                let (item, after) = item.split_at(item_len(item));
                if let [.., "mod", name, ";"] = item {
                    files.push(*name);
                }
                rest = after;
            }
        }
    }
    (kept, files)
}

/// Returns the length of the first item: up to its semicolon or the end of its block.
fn item_len(tokens: &[&str]) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate() {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" if depth <= 1 => return i + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A path in a file, and the name that it gets there.
#[derive(Debug, PartialEq)]
pub struct Named<'s> {
    pub path: Vec<&'s str>,
    pub alias: &'s str,
}

/// Returns all paths that begin with `crate`, `self` or `super`, and all paths of `use`.
pub fn paths<'s>(tokens: &[&'s str]) -> Vec<Named<'s>> {
    let mut named = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let before = if i == 0 { "" } else { tokens[i - 1] };
        let begins = match *token {
            "crate" | "self" | "super" => tokens.get(i + 1) == Some(&"::") && !matches!(before, "::" | "in"),
            _ => before == "use" && is_name(token),
        };
        if begins {
            tree(&mut &tokens[i..], &[], &mut named);
        }
    }
    named
}

/// Parses one path, or all paths of `{…}`, and leaves the remaining tokens in `rest`.
fn tree<'s>(rest: &mut &[&'s str], before: &[&'s str], named: &mut Vec<Named<'s>>) {
    let mut path = before.to_vec();
    while let [token, after @ ..] = *rest {
        match *token {
            "{" => {
                *rest = after;
                while !matches!(rest, [] | ["}", ..]) {
                    let left = rest.len();
                    tree(rest, &path, named);
                    if rest.first() == Some(&",") || rest.len() == left {
                        *rest = &rest[1..];
                    }
                }
                *rest = rest.get(1..).unwrap_or_default();
                return;
            }
            name if is_name(name) || name == "*" => {
                path.push(name);
                *rest = after;
            }
            _ => break,
        }
        match *rest {
            ["::", after @ ..] => *rest = after,
            ["as", alias, after @ ..] => {
                *rest = after;
                return named.push(Named { path, alias });
            }
            _ => break,
        }
    }
    let alias = path.last().copied().unwrap_or_default();
    named.push(Named { path, alias });
}
