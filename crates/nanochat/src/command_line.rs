//! Command lines for people: what a sentence tells them to run does what it says when they paste it into a shell.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;

use crate::escape;

/// `nanochat` and its arguments. Displayed as a POSIX shell reads it; what it could not show in plain letters, such as bytes that are not UTF-8,
/// stands in `$'…'` (bash, zsh, POSIX 2024).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    arguments: Vec<OsString>,
}

impl CommandLine {
    /// With arguments that stand after `nanochat`, such as `["train", "sft"]`.
    pub fn new<Argument: Into<OsString>>(arguments: impl IntoIterator<Item = Argument>) -> CommandLine {
        CommandLine { arguments: arguments.into_iter().map(Into::into).collect() }
    }

    /// With one more.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> CommandLine {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// With `--base-dir`, unless that is `usual`: the folder that a command without the flag takes.
    pub fn base_dir(self, base_dir: &Path, usual: Option<&Path>) -> CommandLine {
        if usual == Some(base_dir) { self } else { self.arg("--base-dir").arg(base_dir) }
    }

    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }
}

impl Display for CommandLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("nanochat")?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

/// As one word of a shell.
pub fn quoted(argument: &OsStr) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c) || is_letter(c);
    match argument.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_string(),
        Some(text) if !text.contains(escape::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => in_dollar_quotes(argument.as_encoded_bytes()),
    }
}

/// Of no script that a shell gives a meaning.
fn is_letter(c: char) -> bool {
    !c.is_ascii() && c.is_alphanumeric()
}

fn in_dollar_quotes(bytes: &[u8]) -> String {
    let mut word = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => word.extend(['\\', c]),
                '\n' => word.push_str("\\n"),
                c if escape::is_control(c) => push_bytes(&mut word, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => word.push(c),
            }
        }
        push_bytes(&mut word, chunk.invalid());
    }
    word + "'"
}

/// Octal: three digits end by themselves, where bash reads as many hexadecimal ones as come.
fn push_bytes(word: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| write!(word, "\\{byte:03o}").expect("a string takes all"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_stay_and_others_are_quoted() {
        let words = ["d4", "a b", "it's", "", "-x=1", "\u{1b}"].map(OsStr::new).map(quoted);
        assert_eq!(words, ["d4", "'a b'", r"'it'\''s'", "''", "-x=1", r"$'\033'"]);
        let line = CommandLine::new(["chat"]).base_dir(Path::new("a b"), Some(Path::new("usual")));
        assert_eq!(line.to_string(), "nanochat chat --base-dir 'a b'");
        assert_eq!(
            CommandLine::new(["chat"]).base_dir(Path::new("a"), Some(Path::new("a"))).to_string(),
            "nanochat chat"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_the_words_that_were_meant() {
        use std::os::unix::ffi::OsStrExt;
        let mut words: Vec<&OsStr> = [
            "",
            "plain-1.0",
            "a b",
            "it's",
            "$HOME `id` \"q\" \\ !",
            "~",
            "*",
            "小明",
            "tab\tnew\nline",
            "\u{1b}[31m1",
            "\u{202e}a",
        ]
        .map(OsStr::new)
        .to_vec();
        words.push(OsStr::from_bytes(b"caf\xe97'"));
        let line = CommandLine::new(words.clone());
        assert!(!line.to_string().contains(escape::is_control), "{line}");
        let script = format!("nanochat() {{ printf '%s\\0' \"$@\"; }}\n{line}");
        let Ok(output) = std::process::Command::new("bash").arg("-c").arg(script).output() else {
            return eprintln!("skipped: there is no bash");
        };
        let read: Vec<&[u8]> = output.stdout.strip_suffix(b"\0").unwrap().split(|&byte| byte == 0).collect();
        assert_eq!(read, words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    }
}
