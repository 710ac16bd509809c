//! The keys of a conversation's or a message's JSON object. Keys that are taken are used. Of the rest, those that would
//! change what is trained are refused, and the others are reported.

use serde_json::{Map, Value};

use super::told::Unused;

/// Keys of common data sets that do not affect training. They are reported, but not as unknown.
const HARMLESS: [&str; 66] = [
    "id",
    "_id",
    "idx",
    "index",
    "uuid",
    "hash",
    "conversation_id",
    "conversation_hash",
    "message_id",
    "parent_id",
    "prompt_id",
    "turn",
    "turn_id",
    "num_turns",
    "source",
    "sources",
    "origin",
    "dataset",
    "data_source",
    "url",
    "title",
    "author",
    "user",
    "user_id",
    "name",
    "category",
    "categories",
    "subcategory",
    "tag",
    "tags",
    "topic",
    "task",
    "task_type",
    "type",
    "kind",
    "domain",
    "difficulty",
    "language",
    "lang",
    "model",
    "score",
    "scores",
    "quality",
    "rating",
    "upvotes",
    "date",
    "time",
    "timestamp",
    "created",
    "created_at",
    "updated_at",
    "metadata",
    "meta",
    "info",
    "extra",
    "split",
    "license",
    "comment",
    "annotations",
    "usage",
    "finish_reason",
    "logprobs",
    "parallel_tool_calls",
    "cache_control",
    "text",
    "toxicity",
];
/// Keys of reasoning before an answer, which nanochat models do not have.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "thinking", "thoughts"];
/// Keys that repeat the conversation in another form beside `messages`.
const BESIDE_MESSAGES: [&str; 8] =
    ["prompt", "completion", "response", "instruction", "input", "output", "query", "label"];
/// Keys that would change what is trained, and why they are refused.
const REFUSED: [(&[&str], &str); 4] = [
    (
        &["tools", "functions", "tool_calls", "function_call", "tool_call_id"],
        "a nanochat model calls nothing but its calculator",
    ),
    (
        &["images", "image", "videos", "video", "audios", "audio", "objects"],
        "a nanochat model reads text alone",
    ),
    (
        &["chosen", "rejected", "chosen_response", "rejected_response", "kto_tag"],
        "what is better or worse is not learned here",
    ),
    (&["history"], "it belongs to an `instruction`, not to a list of messages"),
];
/// Words in a key that suggest an unknown rule about what is trained.
const OF_TRAINING: [&str; 10] =
    ["weight", "weights", "loss", "losses", "mask", "masks", "masked", "train", "trained", "trainable"];

/// A JSON object whose keys are taken one by one; null counts as absent.
pub struct JsonFields {
    map: Map<String, Value>,
    /// Whether the text had a NaN, which was read as null.
    has_nan: bool,
}

impl JsonFields {
    pub fn new(map: Map<String, Value>, has_nan: bool) -> JsonFields {
        JsonFields { map, has_nan }
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a key like [`JsonFields::take`]; an error if the null may be a NaN.
    pub fn number_or_null(&mut self, key: &str) -> Result<Option<Value>, String> {
        match self.map.remove(key) {
            Some(Value::Null) if self.has_nan => Err(format!("`{key}` is NaN, or null where there is NaN")),
            value => Ok(value.filter(|value| !value.is_null())),
        }
    }

    /// Takes the text under `key`; None if it is blank.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            Some(_) => Err(format!("`{key}` must be a string")),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Returns an error for the first key that may not be ignored.
    pub fn refuse(&self) -> Result<(), String> {
        for (key, value) in self.map.iter().filter(|(_, value)| !is_nothing(value)) {
            let listed = REFUSED.iter().find(|(keys, _)| keys.contains(&key.as_str()));
            if let Some((_, why)) = listed {
                return Err(format!("`{key}` is not used: {why}"));
            }
            if key == "label" && value.is_boolean() {
                return Err("`label` is not used: what is better or worse is not learned here".into());
            }
        }
        Ok(())
    }

    /// Reports the keys that are left; an error if one of them may decide what is trained.
    pub fn finish(self, of: &'static str, unused: &mut Unused) -> Result<(), String> {
        self.refuse()?;
        for (key, _) in self.map.iter().filter(|(_, value)| !is_nothing(value)) {
            if key.to_lowercase().split(['_', '-', '.', ' ']).any(|word| OF_TRAINING.contains(&word)) {
                let key: String = key.chars().take(40).collect();
                return Err(format!(
                    "`{key}` may say what is learned, and is not known; use `weight`, `loss` or `train` of a message"
                ));
            }
            let name = key.as_str();
            let known =
                HARMLESS.contains(&name) || REASONING.contains(&name) || BESIDE_MESSAGES.contains(&name);
            unused.push(of, key, known);
        }
        Ok(())
    }
}

/// Whether a value means the same as the absence of its key.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => ["", "[]", "{}", "null", "None"].contains(&text.trim()),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
