//! Conversations from JSON lines, in the three forms found in the wild: an array of {role, content},
//! {"messages": […]}, and ShareGPT's {"conversations": [{"from", "value"}, …]}.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Content, Conversation, Message, Part, PartKind, Role};
use crate::dataset::DataError;
use crate::lines::Lines;

/// The valid conversations of a .jsonl file (also .gz, .zst), each with its line number. An error
/// names the file and the line.
pub fn read_conversations(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(usize, Conversation), DataError>> + use<>, DataError> {
    let path = path.to_owned();
    Ok(Lines::open(&path)?.map(move |line| {
        let (line, bytes) = line?;
        let conversation = parse_conversation(&bytes).map_err(|reason| DataError::Line {
            path: path.clone(),
            line,
            reason,
        })?;
        Ok((line, conversation))
    }))
}

/// One line of such a file; an error says what is wrong with it.
pub fn parse_conversation(line: &[u8]) -> Result<Conversation, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8 ({error})"))?;
    from_json(serde_json::from_str(line).map_err(|error| format!("not JSON ({error})"))?)
}

/// A valid conversation in one of the three forms; the error is a reason in words.
pub(crate) fn from_json(value: Value) -> Result<Conversation, String> {
    let messages = match value {
        Value::Array(messages) => messages,
        Value::Object(mut object) => match (object.remove("messages"), object.remove("conversations")) {
            (Some(Value::Array(messages)), _) | (None, Some(Value::Array(messages))) => messages,
            _ => return Err(FORMS.into()),
        },
        _ => return Err(FORMS.into()),
    };
    let numbered = messages.into_iter().enumerate();
    let messages =
        numbered.map(|(i, value)| message(value).map_err(|why| format!("message {}: {why}", i + 1)));
    let conversation = Conversation { messages: messages.collect::<Result<_, _>>()? };
    conversation.validate().map_err(|error| error.to_string())?;
    Ok(conversation)
}

const FORMS: &str = "not a conversation: expected an array of {role, content}, {\"messages\": […]} or {\"conversations\": […]}";

fn message(value: Value) -> Result<Message, String> {
    let Value::Object(mut object) = value else { return Err("not an object with role and content".into()) };
    let mut field = |name, short| object.remove(name).or_else(|| object.remove(short));
    let (role, content) = (field("role", "from"), field("content", "value"));
    let role = match role.as_ref().and_then(Value::as_str) {
        Some("system") => Role::System,
        Some("user" | "human") => Role::User,
        Some("assistant" | "gpt") => Role::Assistant,
        Some(other) => return Err(format!("unknown role {:?}; use system, user or assistant", shown(other))),
        None => return Err("no role".into()),
    };
    let content = match content {
        Some(Value::String(text)) => Content::Text(text),
        Some(Value::Array(parts)) => Content::Parts(parts.into_iter().map(part).collect::<Result<_, _>>()?),
        _ => return Err("content must be a string or an array of {type, text}".into()),
    };
    Ok(Message { role, content })
}

fn part(value: Value) -> Result<Part, String> {
    let object = if let Value::Object(object) = value { object } else { Map::new() };
    let field = |name| object.get(name).and_then(Value::as_str);
    let kind = match field("type") {
        Some("text") => PartKind::Text,
        Some("python") => PartKind::Python,
        Some("python_output") => PartKind::PythonOutput,
        Some(other) => {
            let other = shown(other);
            return Err(format!("unknown part type {other:?}; use text, python or python_output"));
        }
        None => return Err("a part has no type".into()),
    };
    let text = field("text").ok_or("a part has no text")?.to_owned();
    Ok(Part { kind, text })
}

/// The beginning of a value from the file, short enough for an error message.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &str = r#"[{"role":"user","content":"你好"},{"role":"assistant","content":"好"}]"#;

    #[test]
    fn the_three_forms_are_the_same_conversation() {
        let plain = parse_conversation(PLAIN.as_bytes()).unwrap();
        let messages = format!(r#"{{"id": 7, "messages": {PLAIN}}}"#);
        let share = r#"{"conversations":[{"from":"human","value":"你好"},{"from":"gpt","value":"好"}]}"#;
        assert_eq!(parse_conversation(messages.as_bytes()).unwrap(), plain);
        assert_eq!(parse_conversation(share.as_bytes()).unwrap(), plain);
        // What `data make` writes: the messages, by serde.
        assert_eq!(serde_json::to_string(&plain.messages).unwrap(), PLAIN);
    }

    #[test]
    fn parts_are_read_as_they_are_written() {
        let json = r#"[{"role":"user","content":"1+1?"},{"role":"assistant","content":[{"type":"python","text":"1+1"},{"type":"python_output","text":"2"}]}]"#;
        let parsed = parse_conversation(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&parsed.messages).unwrap(), json);
    }

    #[test]
    fn mistakes_are_named() {
        let cases: [(&[u8], &str); 12] = [
            (b"{", "not JSON"),
            (b"\xff", "not UTF-8"),
            (b"3", "not a conversation"),
            (br#"{"text": "a document"}"#, "not a conversation"),
            (b"[]", "no messages"),
            (b"[1]", "message 1: not an object"),
            (br#"[{"content":"x"}]"#, "message 1: no role"),
            (br#"[{"role":"robot","content":"x"}]"#, "unknown role \"robot\""),
            (br#"[{"role":"user","content":1}]"#, "content must be a string"),
            (br#"[{"role":"user","content":[{"type":"image","text":""}]}]"#, "unknown part type \"image\""),
            (br#"[{"role":"user","content":"x"}]"#, "does not end with the assistant"),
            (br#"[{"role":"assistant","content":"x"}]"#, "it is the user's turn"),
        ];
        for (line, expected) in cases {
            let reason = parse_conversation(line).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse_conversation(deep.as_bytes()).unwrap_err().contains("not JSON"));
    }

    #[test]
    fn an_error_has_the_file_and_the_line() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("chat.jsonl");
        std::fs::write(&path, format!("{PLAIN}\n\n[{{\"role\":\"user\",\"content\":\"\"}}]\n{PLAIN}\n"))
            .unwrap();
        let read: Vec<_> = read_conversations(&path).unwrap().collect();
        assert_eq!(read[0].as_ref().unwrap().0, 1);
        let error = read[1].as_ref().unwrap_err().to_string();
        assert!(error.ends_with("chat.jsonl, line 3: message 1 is empty"), "{error}");
        assert_eq!(read[2].as_ref().unwrap().0, 4);
    }

    proptest! {
        #[test]
        fn hostile_lines_never_panic(line in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
            let _ = parse_conversation(&line);
            let valid = format!(r#"{{"messages": {PLAIN}}}"#);
            let _ = parse_conversation(&valid.as_bytes()[..cut.min(valid.len())]);
        }
    }
}
