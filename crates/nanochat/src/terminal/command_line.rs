//! Formats command lines in messages, so that users can paste them into a shell.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;

use crate::terminal::escape;

/// The command `nanochat` with its arguments. It is displayed in the syntax of a POSIX shell. An argument that cannot
/// be shown in plain letters, such as one with bytes that are not UTF-8, is quoted as `$'…'` (bash, zsh, POSIX 2024).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    arguments: Vec<OsString>,
}

impl CommandLine {
    /// Makes a command line of the arguments that stand after `nanochat`, such as `["train", "sft"]`.
    pub fn new<Argument: Into<OsString>>(arguments: impl IntoIterator<Item = Argument>) -> CommandLine {
        CommandLine { arguments: arguments.into_iter().map(Into::into).collect() }
    }

    /// Adds one more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> CommandLine {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds `--base-dir`, unless it is `usual`, the folder that a command without the flag uses.
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

/// Adds `--base-dir` to each `nanochat …` command in `sentence`: an error does not know whether its command was given
/// one.
pub fn with_base_dir(sentence: &str, base_dir: &Path) -> String {
    let mut parts: Vec<String> = sentence.split('`').map(String::from).collect();
    for command in parts.iter_mut().skip(1).step_by(2) {
        let has_folder = command.contains("--base-dir") || command.starts_with("nanochat doctor");
        if command.starts_with("nanochat ") && !has_folder {
            *command += &format!(" --base-dir {}", quoted(base_dir.as_os_str()));
        }
    }
    parts.join("`")
}

/// Writes an argument as one word of a shell.
pub fn quoted(argument: &OsStr) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c) || is_letter(c);
    match argument.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_string(),
        Some(text) if !text.contains(escape::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => in_dollar_quotes(argument.as_encoded_bytes()),
    }
}

/// Whether `c` is a letter of a non-Latin script, which has no meaning to a shell.
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

/// Writes bytes in octal: an octal escape ends after three digits, while bash reads any number of hexadecimal ones.
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

    #[test]
    fn a_sentence_tells_to_run_commands_in_the_folder_that_was_given() {
        let said = |sentence: &str| with_base_dir(sentence, Path::new("a b"));
        assert_eq!(
            said("make one with `nanochat tok train`, or `nanochat speedrun`"),
            "make one with `nanochat tok train --base-dir 'a b'`, or `nanochat speedrun --base-dir 'a b'`"
        );
        for same in
            ["see `nanochat doctor`", "say `--resume`", "`nanochat chat --base-dir c`", "nanochat `", ""]
        {
            assert_eq!(said(same), same);
        }
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
