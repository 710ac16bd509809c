//! Reads the parts of a file that consist of steps: the normalizer, the pre-tokenizer, and those that change no id.

use serde_json::Value;

use super::unsupported;
use crate::TokenizerError;
use crate::split::{PreTokenizerStep, STEPS};

/// The post-processors that are accepted; they add special tokens around a text or change offsets.
pub(super) const POST_PROCESSORS: [&str; 4] =
    ["ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing"];

/// The most steps, which limits the splitter's recursion on a hostile file.
const MAX_STEPS: usize = 32;

fn type_of(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or("unnamed")
}

/// Collects the steps of a part that is null, one step, or a sequence of them (under the key `list`).
fn flatten(part: Value, list: &str, steps: &mut Vec<Value>) -> Result<(), TokenizerError> {
    match part {
        Value::Null => {}
        mut sequence if type_of(&sequence) == "Sequence" => {
            for part in sequence.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                flatten(part.take(), list, steps)?;
            }
        }
        step if steps.len() < MAX_STEPS => steps.push(step),
        _ => return unsupported(format!("one of its parts has more than {MAX_STEPS} steps")),
    }
    Ok(())
}

/// Refuses a part with a step other than `known`.
pub(super) fn check(name: &str, part: &Value, known: &[&str]) -> Result<(), TokenizerError> {
    let mut steps = Vec::new();
    let list = if name == "decoder" { "decoders" } else { "processors" };
    flatten(part.clone(), list, &mut steps)?;
    match steps.iter().map(type_of).find(|step| !known.contains(step)) {
        Some(step) => unsupported(format!("its {name} {step} is unknown")),
        None => Ok(()),
    }
}

/// Returns true for NFC, false for no normalizer.
pub(super) fn read_normalizer(normalizer: &Value) -> Result<bool, TokenizerError> {
    let mut steps = Vec::new();
    flatten(normalizer.clone(), "normalizers", &mut steps)?;
    match steps.iter().map(type_of).find(|step| *step != "NFC") {
        Some(other) => {
            unsupported(format!("it changes the text first (normalizer {other}); only NFC is known"))
        }
        None => Ok(!steps.is_empty()),
    }
}

pub(super) fn read_pre_tokenizer(part: Value) -> Result<Vec<PreTokenizerStep>, TokenizerError> {
    let mut steps = Vec::new();
    flatten(part, "pretokenizers", &mut steps)?;
    let read = |step: Value| {
        let name = type_of(&step).to_string();
        if !STEPS.contains(&name.as_str()) {
            return unsupported(format!("its pre-tokenizer {name} is unknown"));
        }
        let read = serde_json::from_value(step);
        read.map_err(|error| TokenizerError::Unsupported(format!("its pre-tokenizer {name}: {error}")))
    };
    steps.into_iter().map(read).collect()
}
