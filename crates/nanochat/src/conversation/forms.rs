//! The JSON forms of a conversation in data sets:
//!
//! - an array of {role, content}, which is ours;
//! - {"messages": […]}, after OpenAI's finetuning;
//! - {"conversations": [{"from", "value"}, …]}, ShareGPT's;
//! - {"instruction", "input", "output", "history": [[asked, answered], …]}, Alpaca's with LLaMA-Factory's history
//!   (data/README: the input follows the instruction on a new line, and the answers of the history are learned too);
//! - {"prompt", "completion"}, and one question and one answer under other names.
//!
//! `system` beside them is a leading system message.

use serde_json::{Map, Value};

use super::fields::JsonFields;
use super::message::{self, message, role};
use super::told::Unused;
use super::weight::{loss_mask, masks, weight};
use super::{Content, Conversation, Example, Message, Role};

const FORMS: &str = "not a conversation: expected an array of {role, content}, {\"messages\": […]}, {\"conversations\": […]}, \
    {\"instruction\", \"output\"} or {\"prompt\", \"completion\"}";
const ASKED: [&str; 4] = ["instruction", "input", "prompt", "query"];
const ANSWERED: [&str; 3] = ["output", "completion", "response"];

/// Reads a valid conversation in one of the forms; an error is a reason in words. `has_nan`: a null may stand for NaN.
pub fn example(value: Value, has_nan: bool, unused: &mut Unused) -> Result<Example, String> {
    let mut fields = match value {
        Value::Array(list) => return messages(list, JsonFields::new(Map::new(), has_nan), has_nan, unused),
        Value::Object(map) => JsonFields::new(map, has_nan),
        _ => return Err(FORMS.into()),
    };
    match (fields.take("messages"), fields.take("conversations")) {
        (Some(Value::Array(list)), None) | (None, Some(Value::Array(list))) => {
            messages(list, fields, has_nan, unused)
        }
        (None, None) => pair(fields, unused),
        (Some(_), Some(_)) => Err("both `messages` and `conversations` are there; leave one out".into()),
        _ => Err(FORMS.into()),
    }
}

/// Reads a conversation from a list of messages and the keys beside it.
fn messages(
    list: Vec<Value>,
    mut beside: JsonFields,
    has_nan: bool,
    unused: &mut Unused,
) -> Result<Example, String> {
    let numbered = list.into_iter().enumerate();
    let read = numbered
        .map(|(i, value)| message(value, has_nan, unused).map_err(|why| format!("message {}: {why}", i + 1)))
        .collect::<Result<Vec<message::Read>, _>>()?;
    let mut learned = masks(&read.iter().map(|read| (read.message.role, read.mask)).collect::<Vec<_>>())?;
    if let Some(Value::Array(_)) = beside.get("loss_mask")
        && let Some(list) = beside.take("loss_mask")
    {
        let list = loss_mask(&list, read.len())?;
        learned.iter_mut().zip(list).for_each(|(learned, on)| *learned &= on);
    }
    // NeMo's `mask`: the role that is not trained.
    if let Some(Value::String(name)) = beside.get("mask") {
        match role(name) {
            Ok(Role::Assistant) | Err(_) => {
                return Err(format!("`mask` hides {name:?}, so that nothing is learned"));
            }
            Ok(_) => drop(beside.take("mask")),
        }
    }
    let weight_of = |(read, learned): (&message::Read, &bool)| match (read.message.role, learned) {
        (Role::Assistant, false) => 0.0,
        _ => read.weight.unwrap_or(1.0),
    };
    let mut weights: Vec<f32> = read.iter().zip(&learned).map(weight_of).collect();
    let mut messages: Vec<Message> = read.into_iter().map(|read| read.message).collect();
    // ShareGPT's lists often begin with an empty system message.
    if messages.first().is_some_and(|first| first.role == Role::System && first.content.is_blank()) {
        messages.remove(0);
        weights.remove(0);
    }
    if let Some(system) = system(&mut beside)? {
        match messages.first() {
            Some(first) if first.role == Role::System && first.content.text().trim() != system.trim() => {
                return Err(
                    "`system` says something else than the first message, which is a system message".into()
                );
            }
            Some(first) if first.role == Role::System => {}
            _ => {
                messages.insert(0, text(Role::System, system));
                weights.insert(0, 1.0);
            }
        }
    }
    let weight = weight(&mut beside)?.unwrap_or(1.0);
    beside.finish("", unused)?;
    if weights.iter().all(|&weight| weight == 1.0) {
        weights.clear();
    }
    valid(messages, weight, weights)
}

/// Reads a conversation from a question, an answer and an optional history.
fn pair(mut fields: JsonFields, unused: &mut Unused) -> Result<Example, String> {
    let mut texts = |keys: &[&'static str]| -> Result<Vec<(&'static str, String)>, String> {
        let read = keys.iter().map(|&key| Ok(fields.text(key)?.map(|text| (key, text))));
        Ok(read.collect::<Result<Vec<_>, String>>()?.into_iter().flatten().collect())
    };
    let (asked, answered) = (texts(&ASKED)?, texts(&ANSWERED)?);
    let names = |texts: &[(&str, String)]| {
        texts.iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(" and ")
    };
    let question = match asked.iter().map(|(key, _)| *key).collect::<Vec<_>>()[..] {
        [] => return Err(FORMS.into()),
        [_] => asked[0].1.clone(),
        ["instruction", "input"] => format!("{}\n{}", asked[0].1, asked[1].1),
        _ => return Err(format!("{} all ask something; leave one", names(&asked))),
    };
    let answer = match &answered[..] {
        [] => return Err(FORMS.into()),
        [(_, answer)] => answer.clone(),
        _ => return Err(format!("{} all answer; leave one", names(&answered))),
    };
    let mut messages: Vec<Message> =
        system(&mut fields)?.map(|system| text(Role::System, system)).into_iter().collect();
    for turn in history(fields.take("history"))? {
        let [asked, answered] = turn;
        messages.extend([text(Role::User, asked), text(Role::Assistant, answered)]);
    }
    messages.extend([text(Role::User, question), text(Role::Assistant, answer)]);
    let weight = weight(&mut fields)?.unwrap_or(1.0);
    fields.finish("", unused)?;
    valid(messages, weight, Vec::new())
}

fn valid(messages: Vec<Message>, weight: f32, message_weights: Vec<f32>) -> Result<Example, String> {
    let conversation = Conversation { messages };
    conversation.validate().map_err(|error| error.to_string())?;
    Ok(Example { conversation, weight, message_weights })
}

fn text(role: Role, text: String) -> Message {
    Message { role, content: Content::Text(text) }
}

/// Takes the system message beside the other keys.
fn system(fields: &mut JsonFields) -> Result<Option<String>, String> {
    match (fields.text("system")?, fields.text("system_prompt")?) {
        (Some(a), Some(b)) if a != b => Err("`system` and `system_prompt` say different things".into()),
        (a, b) => Ok(a.or(b)),
    }
}

fn history(value: Option<Value>) -> Result<Vec<[String; 2]>, String> {
    let wrong = || "`history` must be a list of pairs of strings".to_string();
    let turn = |turn: Value| serde_json::from_value::<[String; 2]>(turn).map_err(|_| wrong());
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(turns)) => turns.into_iter().map(turn).collect(),
        Some(_) => Err(wrong()),
    }
}
