//! Reads the JSON texts of a plain, .gz or .zst file: one per line, the elements of one list (`[{…}, {…}]`, as in
//! LLaMA-Factory's data sets), or texts of several lines one after another. Memory holds one text at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use crate::files::file_error::{FileError, at};
use crate::files::lines::{Lines, MAX_LINE, unpack};

/// The bytes at the beginning of a file that determine its form.
const HEAD: u64 = 1 << 20;
/// Keys of a conversation; an object that has a role and none of these keys is a message.
const CONVERSATION_KEYS: [&str; 8] =
    ["messages", "conversations", "instruction", "input", "prompt", "query", "question", "answer"];
const MESSAGE_KEYS: [&str; 2] = ["role", "from"];

/// The position where a text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonPlace {
    /// The line, counted from 1.
    pub line: usize,
    /// The number of the list's element, counted from 1.
    pub element: Option<usize>,
}

/// An iterator over the unparsed texts in order; blank lines are skipped. It ends after an error.
pub struct JsonRecords {
    path: PathBuf,
    source: JsonSource,
}

enum JsonSource {
    Lines(Lines),
    Texts(Texts),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Every line is a text.
    Lines,
    /// Every element of one list is a text.
    List,
    /// A text ends at its last closing bracket.
    Texts,
}

impl JsonPlace {
    /// Returns an error about the text at this place.
    pub fn error(self, path: &Path, reason: String) -> FileError {
        let reason = match self.element {
            Some(element) => format!("element {element} of the list: {reason}"),
            None => reason,
        };
        FileError::Line { path: path.into(), line: self.line, reason }
    }
}

impl std::fmt::Display for JsonPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.element {
            Some(element) => write!(f, "element {element} (line {})", self.line),
            None => write!(f, "line {}", self.line),
        }
    }
}

impl JsonRecords {
    pub fn open(path: &Path) -> Result<JsonRecords, FileError> {
        Ok(JsonRecords::new(path, unpack(path, File::open(path).map_err(at(path))?)?))
    }

    /// Reads the texts of `rest`; errors name it `path`.
    pub fn new(path: &Path, mut rest: Box<dyn BufRead + Send>) -> JsonRecords {
        let mut head = Vec::new();
        let failed = rest.by_ref().take(HEAD).read_to_end(&mut head).err();
        if head.starts_with(b"\xef\xbb\xbf") {
            head.drain(..3);
        }
        let form = form(&head);
        let rest: Box<dyn BufRead + Send> = match failed {
            // The bytes before the damage are still read; then the error is returned.
            Some(error) => Box::new(BufReader::new(Damaged(Some(error)))),
            None => rest,
        };
        let reader = Box::new(Cursor::new(head).chain(rest));
        let source = match form {
            Form::Lines => JsonSource::Lines(Lines::new(path, reader)),
            form => JsonSource::Texts(Texts { reader, line: 1, list: (form == Form::List).then_some(0) }),
        };
        JsonRecords { path: path.into(), source }
    }
}

impl Iterator for JsonRecords {
    type Item = Result<(JsonPlace, Vec<u8>), FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let ended = match &mut self.source {
            JsonSource::Ended => None,
            JsonSource::Lines(lines) => {
                let line = lines.next()?;
                return Some(line.map(|(line, text)| (JsonPlace { line, element: None }, text)));
            }
            JsonSource::Texts(texts) => match texts.read() {
                Ok(Some(text)) => return Some(Ok(text)),
                Ok(None) => None,
                Err(reason) => Some(FileError::Line { path: self.path.clone(), line: texts.line, reason }),
            },
        };
        self.source = JsonSource::Ended;
        ended.map(Err)
    }
}

/// A reader that fails.
struct Damaged(Option<io::Error>);

impl Read for Damaged {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Returns the form of a file that begins with `head`.
fn form(head: &[u8]) -> Form {
    let Some((&first, rest)) = head.trim_ascii_start().split_first() else { return Form::Lines };
    let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let alone = line.trim_ascii().is_empty() && line.len() < rest.len();
    match (first, rest.trim_ascii_start().first()) {
        (b'[', Some(b'[')) => Form::List,
        (b'[', Some(b'{')) if !begins_with_message(rest) => Form::List,
        (b'[' | b'{', _) if alone => Form::Texts,
        _ => Form::Lines,
    }
}

/// Whether the first object in `text` is a message and not a conversation.
fn begins_with_message(text: &[u8]) -> bool {
    let keys = keys(text);
    let any = |names: &[&str]| names.iter().any(|name| keys.contains(&name.as_bytes()));
    any(&MESSAGE_KEYS) && !any(&CONVERSATION_KEYS)
}

/// Returns the keys of the first object in `text`, which may be incomplete.
fn keys(text: &[u8]) -> Vec<&[u8]> {
    let (mut scan, mut start, mut keys) = (BracketScan::default(), 0, Vec::new());
    for (i, &byte) in text.iter().enumerate() {
        let inside = scan.string;
        scan.step(byte);
        match (inside, scan.string) {
            (false, true) => start = i + 1,
            (true, false) if scan.depth == 1 && text[i + 1..].trim_ascii_start().starts_with(b":") => {
                keys.push(&text[start..i]);
            }
            (false, false) if byte == b'}' && scan.depth == 0 => break,
            _ => {}
        }
    }
    keys
}

/// The state of a scan through a JSON text.
#[derive(Default)]
struct BracketScan {
    depth: usize,
    string: bool,
    escaped: bool,
}

impl BracketScan {
    fn step(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.string => self.escaped = true,
            b'"' => self.string = !self.string,
            _ if self.string => {}
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// A reader of texts that are separated by their brackets.
struct Texts {
    reader: Box<dyn BufRead + Send>,
    line: usize,
    /// The number of elements read so far, if the texts are those of a list.
    list: Option<usize>,
}

impl Texts {
    fn read(&mut self) -> Result<Option<(JsonPlace, Vec<u8>)>, String> {
        if self.list == Some(0) {
            self.skip(b'[')?;
        }
        let Some(count) = &mut self.list else {
            if self.peek()?.is_none() {
                return Ok(None);
            }
            let place = JsonPlace { line: self.line, element: None };
            return self.text().map(|text| Some((place, text)));
        };
        *count += 1;
        let element = Some(*count);
        if *count > 1 {
            self.skip(b',')?;
        }
        match self.peek()? {
            None => Err("the list that the file is has no end".into()),
            Some(b']') => {
                self.skip(b']')?;
                match self.peek()? {
                    None => Ok(None),
                    Some(_) => Err("something stands after the end of the list that the file is".into()),
                }
            }
            Some(_) => {
                let place = JsonPlace { line: self.line, element };
                self.text().map(|text| Some((place, text)))
            }
        }
    }

    /// Returns the next byte that is no white space, without consuming it.
    fn peek(&mut self) -> Result<Option<u8>, String> {
        loop {
            let buffer = self.reader.fill_buf().map_err(|error| error.to_string())?;
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (next, ended) = (buffer.get(blank).copied(), buffer.is_empty());
            self.line += buffer[..blank].iter().filter(|&&byte| byte == b'\n').count();
            self.reader.consume(blank);
            if next.is_some() || ended {
                return Ok(next);
            }
        }
    }

    /// Consumes `byte` if it comes next.
    fn skip(&mut self, byte: u8) -> Result<(), String> {
        if self.peek()? == Some(byte) {
            self.reader.consume(1);
        }
        Ok(())
    }

    /// Reads the text that begins at the next byte: up to its last closing bracket or, without brackets, to the end of
    /// the line.
    fn text(&mut self) -> Result<Vec<u8>, String> {
        let (mut scan, mut text) = (BracketScan::default(), Vec::new());
        loop {
            let buffer = self.reader.fill_buf().map_err(|error| error.to_string())?;
            let mut ended = buffer.is_empty();
            let mut taken = 0;
            for &byte in buffer {
                let bare = scan.depth == 0 && !scan.string;
                if bare && !(text.is_empty() && taken == 0) && b",]\n".contains(&byte) {
                    ended = true;
                    break;
                }
                scan.step(byte);
                taken += 1;
                if scan.depth == 0 && !scan.string && matches!(byte, b']' | b'}') {
                    ended = true;
                    break;
                }
            }
            text.extend_from_slice(&buffer[..taken]);
            self.line += buffer[..taken].iter().filter(|&&byte| byte == b'\n').count();
            self.reader.consume(taken);
            if ended {
                return Ok(text);
            }
            if text.len() as u64 > MAX_LINE {
                return Err(format!("a text is longer than {} MiB", MAX_LINE >> 20));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn write(name: &str, text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(name);
        std::fs::write(&path, text).unwrap();
        (temp, path)
    }

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        let (_temp, path) = write("a.json", text.as_bytes());
        let record = |record: Result<(JsonPlace, Vec<u8>), FileError>| {
            let (place, text) = record.map_err(|error| error.to_string())?;
            Ok((place.to_string(), String::from_utf8(text).unwrap()))
        };
        JsonRecords::open(&path).unwrap().map(record).collect()
    }

    fn texts(text: &str) -> Vec<String> {
        read(text).unwrap().into_iter().map(|(_, text)| text).collect()
    }

    const CHAT: &str = r#"{"id": "]}", "messages": [{"role": "user", "content": "\"[{"}]}"#;
    const MESSAGES: &str = r#"[{"content": "{", "role": "user"}, {"role": "assistant", "content": "}"}]"#;

    #[test]
    fn lines_lists_and_texts_over_many_lines_are_told_apart() {
        assert_eq!(texts(&format!("{CHAT}\n\n{CHAT}\n")), [CHAT, CHAT]);
        assert_eq!(texts(&format!("{MESSAGES}\n{MESSAGES}")), [MESSAGES, MESSAGES]);
        for list in [format!("[{CHAT},{CHAT}]"), format!("\u{feff}[\n  {CHAT} ,\n{CHAT}\n]\n\n")] {
            assert_eq!(texts(&list), [CHAT, CHAT]);
        }
        assert_eq!(texts(&format!("[{MESSAGES},\n{MESSAGES}]")), [MESSAGES, MESSAGES]);
        let pretty = |text: &str| text.replacen('{', "{\n", 1).replacen('[', "[\n", 1);
        assert_eq!(texts(&format!("{}\n{}", pretty(CHAT), pretty(CHAT))), [pretty(CHAT), pretty(CHAT)]);
        assert_eq!(
            texts(&format!("{}{}", pretty(MESSAGES), pretty(MESSAGES))),
            [pretty(MESSAGES), pretty(MESSAGES)]
        );
        let share = r#"[{"from": "a site", "conversations": [{"from": "human", "value": "x"}]}]"#;
        assert_eq!(texts(share), [&share[1..share.len() - 1]]);
        for empty in ["", " \n\n"] {
            assert_eq!(texts(empty), Vec::<String>::new());
        }
    }

    #[test]
    fn the_end_of_a_list_stays_the_end() {
        let (_temp, path) = write("a.json", b"[{}]");
        let mut records = JsonRecords::open(&path).unwrap();
        assert!(records.next().is_some() && records.next().is_none() && records.next().is_none());
    }

    #[test]
    fn places_are_lines_and_elements() {
        let places =
            |text: &str| -> Vec<String> { read(text).unwrap().into_iter().map(|(place, _)| place).collect() };
        assert_eq!(places(&format!("{CHAT}\n\n{CHAT}")), ["line 1", "line 3"]);
        assert_eq!(places(&format!("[{CHAT},\n\n{CHAT}]")), ["element 1 (line 1)", "element 2 (line 3)"]);
        assert_eq!(places("\n{\n}\n\n{}"), ["line 2", "line 5"]);
    }

    #[test]
    fn damage_is_an_error_and_the_end() {
        let fails = |text: String| read(&text).unwrap_err();
        let error = fails(format!("[{CHAT},\n{CHAT}"));
        assert!(error.ends_with("line 2: the list that the file is has no end"), "{error}");
        let error = fails(format!("[{CHAT}]\n[{CHAT}]"));
        assert!(error.contains("line 2: something stands after the end"), "{error}");
        // Text that is no JSON is returned unchanged.
        assert_eq!(texts("[{\"messages\": 1},,x y\n}]"), ["{\"messages\": 1}", ",x y", "}"]);
    }

    #[test]
    fn archives_are_unpacked_and_bounded() {
        let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
        packed.write_all(format!("[{CHAT},").as_bytes()).unwrap();
        packed.write_all(b"[").unwrap();
        let zeros = vec![b'0'; 1 << 20];
        (0..70).for_each(|_| packed.write_all(&zeros).unwrap());
        let packed = packed.finish().unwrap();
        let (_temp, path) = write("bomb.json.zst", &packed);
        let read: Vec<_> = JsonRecords::open(&path).unwrap().collect();
        assert_eq!(read[0].as_ref().unwrap().1, CHAT.as_bytes());
        let error = read[1].as_ref().unwrap_err().to_string();
        assert!(error.contains("bomb.json.zst") && error.contains("longer than 64 MiB"), "{error}");
        let (_temp, path) = write("cut.json.zst", &packed[..packed.len() / 2]);
        assert!(JsonRecords::open(&path).unwrap().last().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn hostile_files_end(text in "[\\[\\]{},:\"\\\\ \na]{0,60}") {
            let (_temp, path) = write("a.json", text.as_bytes());
            prop_assert!(JsonRecords::open(&path).unwrap().count() <= text.len() + 1);
        }

        #[test]
        fn a_list_has_the_elements_that_json_says(list in prop::collection::vec("[\\[\\]{},\"\\\\ a]{0,9}", 0..9), pretty: bool) {
            let values: Vec<_> = list.iter().map(|text| serde_json::json!({ "messages": [text, [{}]] })).collect();
            let text = if pretty { serde_json::to_string_pretty(&values) } else { serde_json::to_string(&values) };
            let read: Vec<serde_json::Value> =
                texts(&text.unwrap()).iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(if values.is_empty() { vec![] } else { read }, values);
        }
    }
}
