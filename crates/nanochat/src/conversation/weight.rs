//! The weight of a message or a conversation, by the keys that data sets use for it:
//!
//! | key | values | after |
//! |---|---|---|
//! | `weight` | 0, or up to 10,000 | OpenAI's finetuning (0 or 1 of an assistant's message), Fireworks' weighted training (of a whole conversation) |
//! | `loss` | true, false, 1, 0; null: as usual | ChatGLM3's finetuning, ms-swift, slime |
//! | `train` | true, false | axolotl's chat_template |
//! | `trainable`, `loss_mask` | the same | verl |
//! | `loss_mask` beside the messages | a list of such, one a message | LLaMA-Factory |
//! | `mask` | the same, where a user's message tells what is hidden | see [`masks`] |
//!
//! Finetuning never trains on a user's text, so only an assistant's message has a weight.

use serde_json::Value;

use super::Role;
use super::fields::JsonFields;

const SWITCHES: [&str; 4] = ["loss", "train", "trainable", "loss_mask"];
/// The largest and smallest weights. Larger ones are mistakes; below the smallest a step's gradients lose precision.
const MOST: f64 = 1e4;
const LEAST: f64 = 1e-6;

/// Takes the keys about weights out of `fields` and returns the product of their values; None if there are none.
pub fn weight(fields: &mut JsonFields) -> Result<Option<f32>, String> {
    let mut product = None;
    if let Some(value) = fields.number_or_null("weight")? {
        let weight = value.as_f64().filter(|&weight| weight == 0.0 || (LEAST..=MOST).contains(&weight));
        let weight =
            weight.ok_or_else(|| format!("`weight` must be 0, or 0.000001 to 10000, not {value}"))?;
        product = Some(weight as f32);
    }
    for key in SWITCHES {
        if let Some(value) = fields.number_or_null(key)? {
            let on = switch(&value).ok_or_else(|| format!("`{key}` must be true or false, 1 or 0"))?;
            product = Some(product.unwrap_or(1.0) * f32::from(on));
        }
    }
    Ok(product)
}

/// Reads `loss_mask` beside the messages: an entry for each of them.
pub fn loss_mask(value: &Value, messages: usize) -> Result<Vec<bool>, String> {
    let list = value.as_array().filter(|list| list.len() == messages);
    let on = list.and_then(|list| list.iter().map(switch).collect::<Option<Vec<bool>>>());
    on.ok_or_else(|| {
        format!("`loss_mask` must be a list of 1 and 0, one for each of the {messages} messages")
    })
}

/// Returns which messages their `mask` trains. In some data sets a 1 marks trained messages, in others (torchtune's
/// `masked`) hidden ones; users' messages are trained in neither, so their masks tell which convention it is.
pub fn masks(masks: &[(Role, Option<bool>)]) -> Result<Vec<bool>, String> {
    let of = |assistant: bool| {
        masks
            .iter()
            .filter(move |(role, _)| (*role == Role::Assistant) == assistant)
            .filter_map(|(_, mask)| *mask)
    };
    if of(true).next().is_none() {
        return Ok(vec![true; masks.len()]);
    }
    match (of(false).any(|mask| mask), of(false).any(|mask| !mask)) {
        (true, false) => Ok(masks.iter().map(|(_, mask)| *mask != Some(true)).collect()),
        (false, true) => Ok(masks.iter().map(|(_, mask)| *mask != Some(false)).collect()),
        _ => Err("`mask` marks what is learned in some data sets and what is hidden in others, and the users' messages \
             do not say which; write `weight`: 1 or 0"
            .into()),
    }
}

/// Reads true, false, 1 or 0.
pub fn switch(value: &Value) -> Option<bool> {
    match (value.as_bool(), value.as_f64()) {
        (Some(on), _) => Some(on),
        (_, Some(1.0)) => Some(true),
        (_, Some(0.0)) => Some(false),
        _ => None,
    }
}
