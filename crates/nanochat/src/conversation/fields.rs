//! The keys of a conversation's or a message's JSON object. What is taken is used; of the rest, what would change what is
//! learned is refused, and what remains is told.

use serde_json::{Map, Value};

use super::told::Unused;

/// Keys that nothing is learned from, in common data sets. They are told all the same, but not as unknown.
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
/// Thoughts before an answer: a nanochat model has no place for them.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "thinking", "thoughts"];
/// Another writing of the conversation, where it already stands in `messages`.
const BESIDE_MESSAGES: [&str; 8] =
    ["prompt", "completion", "response", "instruction", "input", "output", "query", "label"];
/// Keys without which something else would be learned, and why they are not used.
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
/// A key with one of these words says what is learned, in a way that is not known.
const OF_TRAINING: [&str; 10] =
    ["weight", "weights", "loss", "losses", "mask", "masks", "masked", "train", "trained", "trainable"];

/// An object whose keys are taken one by one; null is as good as absent.
pub struct Fields {
    map: Map<String, Value>,
    /// Whether the text had a NaN, which has become null.
    has_nan: bool,
}

impl Fields {
    pub fn new(map: Map<String, Value>, has_nan: bool) -> Fields {
        Fields { map, has_nan }
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// As [`Fields::take`]; an error if the null may be a NaN.
    pub fn number_or_null(&mut self, key: &str) -> Result<Option<Value>, String> {
        match self.map.remove(key) {
            Some(Value::Null) if self.has_nan => Err(format!("`{key}` is NaN, or null where there is NaN")),
            value => Ok(value.filter(|value| !value.is_null())),
        }
    }

    /// The text under `key`, if it is not blank.
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

    /// An error for the first key that may not be left out.
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

    /// Tells of the keys that are left; an error if one of them may say what is learned.
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

/// Whether a value says as much as its key's absence.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => ["", "[]", "{}", "null", "None"].contains(&text.trim()),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
