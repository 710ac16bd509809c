//! Fields that other servers of this API support and nanochat does not. Harmless ones do not change an answer and are
//! ignored. The others are refused by name unless their value asks for nothing. A field in no list is unknown, and
//! refused as well.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;

/// Ignored fields: user names, storage, caching, priority and price, and the effort of reasoning models.
const HARMLESS: [&str; 14] = [
    "cache_prompt",
    "include_reasoning",
    "metadata",
    "parallel_tool_calls",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "request_id",
    "safety_identifier",
    "service_tier",
    "spaces_between_special_tokens",
    "store",
    "user",
];

/// A field, a test whether its value asks for nothing, and the reason why any other value is refused.
pub type Unsupported = (&'static str, fn(&Value) -> bool, &'static str);

const TOOLS: &str = "nanochat calls its own calculator and no other tools";
const FORM: &str = "an answer has no other form than text";
const TEXT: &str = "nanochat reads and writes text only";
const END: &str = "an answer ends where the model ends it, at a stop string, or at max_tokens";
const SEARCH: &str = "tokens are drawn one after the other, without a search";
const CHOICE: &str = "tokens are chosen by temperature, top_k, top_p, min_p and the repetition, presence and frequency penalties";
const TEMPLATE: &str = "a prompt is always rendered as in training, and ends where the answer begins";
const THINKING: &str = "the model does not think before it answers";
const SPECIAL: &str = "special tokens are never shown";
const IDS: &str = "tokens are shown as text";

const COMMON: [Unsupported; 49] = [
    ("tools", empty, TOOLS),
    ("functions", empty, TOOLS),
    ("tool_choice", none_or_auto, TOOLS),
    ("function_call", none_or_auto, TOOLS),
    ("web_search_options", never, TOOLS),
    ("response_format", |format| format["type"] == "text", FORM),
    ("structured_outputs", never, FORM),
    ("grammar", never, FORM),
    ("json_schema", never, FORM),
    ("guided_json", never, FORM),
    ("guided_regex", never, FORM),
    ("guided_choice", never, FORM),
    ("guided_grammar", never, FORM),
    ("guided_decoding_backend", never, FORM),
    ("guided_whitespace_pattern", never, FORM),
    ("modalities", |kinds| *kinds == json!(["text"]), TEXT),
    ("audio", never, TEXT),
    ("suffix", empty, "a text is only written on from its end"),
    ("prediction", never, "an answer is not predicted"),
    ("verbosity", |verbosity| verbosity == "medium", "the model's answers are as long as it makes them"),
    ("min_tokens", zero, END),
    ("ignore_eos", off, END),
    ("stop_token_ids", empty, END),
    ("include_stop_str_in_output", off, END),
    ("best_of", one, SEARCH),
    ("use_beam_search", off, SEARCH),
    ("length_penalty", one, SEARCH),
    ("early_stopping", off, SEARCH),
    ("logit_bias", |bias| *bias == json!({}), CHOICE),
    ("logits_processors", empty, CHOICE),
    ("allowed_token_ids", never, CHOICE),
    ("bad_words", empty, CHOICE),
    ("typical_p", one, CHOICE),
    ("tfs_z", one, CHOICE),
    ("top_a", zero, CHOICE),
    ("mirostat", zero, CHOICE),
    ("mirostat_mode", zero, CHOICE),
    ("dry_multiplier", zero, CHOICE),
    ("xtc_probability", zero, CHOICE),
    ("dynatemp_range", zero, CHOICE),
    ("repeat_penalty", one, "it is called repetition_penalty here"),
    ("truncate_prompt_tokens", never, "\"truncation\": \"auto\" drops the oldest exchanges of a chat"),
    ("prompt_logprobs", never, "/v1/completions scores a prompt with echo and logprobs"),
    ("skip_special_tokens", on, SPECIAL),
    ("return_token_ids", off, IDS),
    ("return_tokens_as_token_ids", off, IDS),
    ("enable_thinking", off, THINKING),
    ("thinking", |thinking| thinking["type"] == "disabled", THINKING),
    ("thinking_budget", zero, THINKING),
];

/// Unsupported fields that only a chat request has.
pub const CHAT: [Unsupported; 7] = [
    ("echo", off, TEMPLATE),
    ("add_generation_prompt", on, TEMPLATE),
    ("continue_final_message", off, TEMPLATE),
    ("add_special_tokens", off, TEMPLATE),
    ("chat_template", never, TEMPLATE),
    ("chat_template_kwargs", thinks_not, TEMPLATE),
    ("documents", empty, TEMPLATE),
];

/// Unsupported fields that only a completion request has.
pub const COMPLETION: [Unsupported; 1] =
    [("add_special_tokens", on, "a text always stands after <|bos|>, token ids never do")];

/// Unsupported fields of `stream_options`.
pub const STREAM: [Unsupported; 1] =
    [("continuous_usage_stats", off, "include_usage sends what was used at the end")];

/// Unsupported fields of a message.
pub const MESSAGE: [Unsupported; 6] = [
    ("tool_calls", empty, TOOLS),
    ("function_call", never, TOOLS),
    ("audio", never, TEXT),
    ("refusal", empty, "the model cannot read refusals"),
    ("prefix", off, TEMPLATE),
    ("partial", off, TEMPLATE),
];

/// Drops the harmless fields of a request and refuses the unsupported ones.
pub fn settle(fields: &mut Fields, own: &[Unsupported]) -> Result<(), ApiError> {
    leave(fields, &HARMLESS);
    refuse(fields, own)?;
    refuse(fields, &COMMON)
}

/// Drops the fields named in `harmless`.
pub fn leave(fields: &mut Fields, harmless: &[&str]) {
    harmless.iter().for_each(|field| drop(fields.take(field)));
}

/// Refuses those of the `unsupported` fields whose value asks for something.
pub fn refuse(fields: &mut Fields, unsupported: &[Unsupported]) -> Result<(), ApiError> {
    for (field, asks_nothing, why) in unsupported {
        if fields.take(field).is_some_and(|value| !asks_nothing(&value)) {
            let error = fields.bad(field, format_args!("is not supported: {why}"));
            return Err(error.code("unsupported_parameter"));
        }
    }
    Ok(())
}

fn never(_: &Value) -> bool {
    false
}

fn off(value: &Value) -> bool {
    *value == json!(false)
}

fn on(value: &Value) -> bool {
    *value == json!(true)
}

fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn empty(value: &Value) -> bool {
    [json!([]), json!({}), json!("")].contains(value)
}

fn none_or_auto(value: &Value) -> bool {
    value == "none" || value == "auto"
}

/// Whether the arguments only turn reasoning off; templates of other models have such a switch.
fn thinks_not(kwargs: &Value) -> bool {
    let thinks_not = |(name, value): (&String, &Value)| {
        matches!(name.as_str(), "enable_thinking" | "thinking") && off(value)
    };
    kwargs.as_object().is_some_and(|kwargs| kwargs.iter().all(thinks_not))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_stands_in_one_list() {
        let tables = [&COMMON[..], &CHAT, &COMPLETION].into_iter().flatten().map(|(field, ..)| *field);
        let mut fields: Vec<&str> = tables.chain(HARMLESS).collect();
        fields.sort_unstable();
        // `add_special_tokens` false is harmless for a chat and unsupported for a completion, where true is harmless.
        let twice: Vec<&str> =
            fields.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert_eq!(twice, ["add_special_tokens"]);
    }

    #[test]
    fn a_template_that_does_not_think_is_no_wish() {
        assert!(thinks_not(&json!({"enable_thinking": false})) && thinks_not(&json!({})));
        for wish in [json!({"enable_thinking": true}), json!({"date": "today"}), json!([])] {
            assert!(!thinks_not(&wish), "{wish}");
        }
    }
}
