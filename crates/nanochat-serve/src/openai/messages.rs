//! Reads the messages of a request: the role and content of each.

use nanochat::conversation::{Content, Message, Part, PartKind, Role};
use serde_json::Value;

use super::unsupported::{self, leave, refuse};
use crate::error::ApiError;
use crate::fields::{Fields, wrong};

/// Message fields that are not part of what was said and are ignored. Earlier reasoning is never shown to a model;
/// names of speakers do not occur in training; `tool` repeats in pieces what `parts` holds in full.
const HARMLESS: [&str; 11] = [
    "annotations",
    "cache_control",
    "dropped_messages",
    "id",
    "name",
    "provider_specific_fields",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
    "tool",
];

/// Reads the messages as they were sent and checks each one. Only an assistant's message may be empty.
pub fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let name = fields.name("messages");
    let Some(messages) = fields.list("messages", "a list of messages")? else {
        return Err(fields.bad("messages", "is missing; it is a list of messages"));
    };
    let fields = messages.into_iter().enumerate().map(|(i, value)| Fields::of(format!("{name}[{i}]"), value));
    fields.map(|fields| message(fields?)).collect()
}

fn message(mut fields: Fields) -> Result<Message, ApiError> {
    let role = role(&mut fields)?;
    let name = fields.name("content");
    let parts = match fields.list("parts", "a list of parts")? {
        Some(parts) => Some(read_parts(parts, &fields.name("parts"), role)?),
        None => None,
    };
    let content = match fields.take("content") {
        None => None,
        Some(Value::String(text)) => Some(Content::Text(text)),
        Some(Value::Array(parts)) => Some(read_parts(parts, &name, role)?),
        Some(other) => return Err(wrong(name, "a string or a list of text parts", &other)),
    };
    leave(&mut fields, &HARMLESS);
    refuse(&mut fields, &unsupported::MESSAGE)?;
    fields.finish()?;
    let content = match (content, parts) {
        // Answers of this server repeat their text in `parts`, together with the calculator's calls.
        (Some(content), Some(parts)) if content.text() == parts.visible_text() => parts,
        (Some(content), _) | (None, Some(content)) => content,
        (None, None) => Content::Text(String::new()),
    };
    if role == Role::User && is_blank(&content) {
        return Err(fields.bad("content", "is empty; a user's message says something"));
    }
    Ok(Message { role, content })
}

fn role(fields: &mut Fields) -> Result<Role, ApiError> {
    match fields.text("role")?.as_deref() {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some(role @ ("tool" | "function")) => {
            Err(fields.bad("role", format_args!("is {role}, and nanochat calls its own calculator only")))
        }
        _ => Err(fields.bad("role", "must be system, developer, user or assistant")),
    }
}

/// Reads a list of parts at path `name`. Only the assistant may use the calculator.
fn read_parts(parts: Vec<Value>, name: &str, role: Role) -> Result<Content, ApiError> {
    let part = |(i, value)| {
        let mut fields = Fields::of(format!("{name}[{i}]"), value)?;
        let kind = match fields.text("type")?.as_deref() {
            Some("text") => PartKind::Text,
            Some("python") if role == Role::Assistant => PartKind::Python,
            Some("python_output") if role == Role::Assistant => PartKind::PythonOutput,
            _ => return Err(fields.bad("type", "must be \"text\"; nanochat reads nothing else")),
        };
        let text = fields.text("text")?.ok_or_else(|| fields.bad("text", "is missing"))?;
        leave(&mut fields, &["annotations", "cache_control"]);
        fields.finish()?;
        Ok(Part { kind, text })
    };
    let parts: Vec<Part> = parts.into_iter().enumerate().map(part).collect::<Result<_, ApiError>>()?;
    let only_text = parts.iter().all(|part| part.kind == PartKind::Text);
    let content = Content::Parts(parts);
    Ok(if only_text { Content::Text(content.text()) } else { content })
}

pub fn is_blank(content: &Content) -> bool {
    content.text().trim().is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::turns::alternating;
    use super::*;

    fn read(list: Value) -> Result<Vec<Message>, ApiError> {
        messages(&mut Fields::of_body(json!({"messages": list}))?).and_then(alternating)
    }

    fn refusal(list: Value) -> String {
        read(list).unwrap_err().body()["error"]["message"].as_str().unwrap().to_string()
    }

    #[test]
    fn calls_of_the_calculator_come_back_as_they_went() {
        let parts = json!([{"type": "python", "text": "1+2"}, {"type": "python_output", "text": "3"}]);
        let chat = |answer: Value| json!([{"role": "user", "content": "a"}, answer, {"role": "user", "content": "q"}]);
        for answer in [
            json!({"role": "assistant", "content": parts}),
            json!({"role": "assistant", "content": "", "refusal": null, "parts": parts, "tool_calls": []}),
            json!({"role": "assistant", "parts": parts, "reasoning_content": "hm"}),
        ] {
            let found = read(chat(answer.clone())).unwrap();
            assert_eq!(serde_json::to_value(&found[1].content).unwrap(), parts, "{answer}");
        }
        let edited = json!({"role": "assistant", "content": "four", "parts": parts});
        assert_eq!(read(chat(edited)).unwrap()[1].content, Content::Text("four".into()));
    }

    #[test]
    fn what_cannot_be_a_turn_is_refused_by_its_place() {
        let user =
            |content: Value| json!([{"role": "user", "content": "a"}, {"role": "user", "content": content}]);
        for (list, expected) in [
            (json!([]), "messages must have one of the user"),
            (json!("hi"), "messages must be a list of messages, found a string"),
            (json!(["hi"]), "messages[0] must be an object, found a string"),
            (json!([{"content": "a"}]), "messages[0].role must be system, developer, user or assistant"),
            (json!([{"role": 5}]), "messages[0].role must be a string, found 5"),
            (
                user(json!({"text": "a"})),
                "messages[1].content must be a string or a list of text parts, found an object",
            ),
            (user(json!(" ")), "messages[1].content is empty; a user's message says something"),
            (
                user(
                    json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]),
                ),
                "messages[1].content[1].type must be \"text\"; nanochat reads nothing else",
            ),
            (user(json!([{"type": "text"}])), "messages[1].content[0].text is missing"),
            (
                json!([{"role": "tool", "content": "3", "tool_call_id": "1"}]),
                "messages[0].role is tool, and nanochat calls its own calculator only",
            ),
            (
                json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]),
                "messages[0].tool_calls is not supported: nanochat calls its own calculator and no other tools",
            ),
            (
                json!([{"role": "user", "content": "a", "weight": 0}]),
                "Unrecognized request argument supplied: messages[0].weight",
            ),
            (json!([{"role": "system", "content": "s"}]), "messages must have one of the user"),
            (
                json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
                "the last message must be the user's",
            ),
        ] {
            assert_eq!(refusal(list.clone()), expected, "{list}");
        }
    }
}
