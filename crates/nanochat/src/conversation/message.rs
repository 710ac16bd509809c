//! Reads one message, {role, content} or {from, value}, with its other keys.

use serde_json::{Map, Value};

use super::fields::JsonFields;
use super::told::Unused;
use super::weight::{switch, weight};
use super::{Content, Message, Part, PartKind, Role};

/// The roles of function calls in data sets.
const OF_TOOLS: [&str; 7] =
    ["tool", "function", "function_call", "tool_call", "observation", "tool_response", "ipython"];

/// A message as it was read.
pub struct Read {
    pub message: Message,
    /// The weight that its keys give it.
    pub weight: Option<f32>,
    pub mask: Option<bool>,
}

/// Reads a message; an error is a reason in words.
pub fn message(value: Value, has_nan: bool, unused: &mut Unused) -> Result<Read, String> {
    let Value::Object(map) = value else { return Err("not an object with role and content".into()) };
    let mut fields = JsonFields::new(map, has_nan);
    let mut either = |name, short| fields.take(name).or_else(|| fields.take(short));
    let (said, content) = (either("role", "from"), either("content", "value"));
    let role = role(said.as_ref().and_then(Value::as_str).ok_or("no role")?)?;
    fields.refuse()?;
    let content = match (content, fields.text("refusal")?) {
        (Some(Value::String(text)), None) => Content::Text(text),
        (Some(Value::Array(parts)), None) => {
            Content::Parts(parts.into_iter().map(|value| part(value, unused)).collect::<Result<_, _>>()?)
        }
        // OpenAI's `refusal`: the assistant's text in place of a content.
        (None, Some(refusal)) => Content::Text(refusal),
        (Some(Value::String(text)), Some(refusal)) if text.trim().is_empty() => Content::Text(refusal),
        (_, Some(_)) => return Err("it has both a content and a `refusal`".into()),
        _ => return Err("content must be a string or an array of {type, text}".into()),
    };
    let mask = match fields.number_or_null("mask")? {
        Some(value) => Some(switch(&value).ok_or("`mask` must be true or false, 1 or 0")?),
        None => None,
    };
    let mut weight = weight_of(role, &mut fields, unused)?;
    if role != Role::Assistant {
        weight = None;
    }
    fields.finish(" of messages", unused)?;
    Ok(Read { message: Message { role, content }, weight, mask })
}

/// Returns the weight that the keys give; an error if a user's message is to be trained.
fn weight_of(role: Role, fields: &mut JsonFields, unused: &mut Unused) -> Result<Option<f32>, String> {
    let plain = fields.get("weight").is_some();
    let weight = weight(fields)?;
    match weight {
        Some(weight) if weight > 0.0 && role != Role::Assistant && plain => {
            unused.push(" of users' messages", "weight", true);
        }
        Some(weight) if weight > 0.0 && role != Role::Assistant => {
            return Err(format!(
                "the {role}'s message is marked to be learned, and only the assistant's are"
            ));
        }
        _ => {}
    }
    Ok(weight)
}

pub fn role(name: &str) -> Result<Role, String> {
    let shown: String = name.chars().take(40).collect();
    match name.to_lowercase().as_str() {
        "system" | "developer" => Ok(Role::System),
        "user" | "human" => Ok(Role::User),
        "assistant" | "gpt" | "chatgpt" | "model" => Ok(Role::Assistant),
        tool if OF_TOOLS.contains(&tool) => Err(format!(
            "the role {shown:?} is of a function call, and a nanochat model calls nothing but its calculator"
        )),
        _ => Err(format!("unknown role {shown:?}; use system, user or assistant")),
    }
}

fn part(value: Value, unused: &mut Unused) -> Result<Part, String> {
    let object = if let Value::Object(object) = value { object } else { Map::new() };
    let mut fields = JsonFields::new(object, false);
    let (kind, key) = match fields.take("type").as_ref().and_then(Value::as_str) {
        Some("text") => (PartKind::Text, "text"),
        Some("refusal") => (PartKind::Text, "refusal"),
        Some("python") => (PartKind::Python, "text"),
        Some("python_output") => (PartKind::PythonOutput, "text"),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            return Err(format!("unknown part type {other:?}; use text, python or python_output"));
        }
        None => return Err("a part has no type".into()),
    };
    let text = fields.take(key).as_ref().and_then(Value::as_str).ok_or("a part has no text")?.to_owned();
    fields.finish(" of parts", unused)?;
    Ok(Part { kind, text })
}
