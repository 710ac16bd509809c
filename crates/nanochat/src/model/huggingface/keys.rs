//! The known keys of config.json. All others are refused, since a newer transformers or a model's own code could change
//! every result because of them.

use serde_json::Value;

/// The softcap of the logits. The loss relies on it: its exponents need no maximum subtracted.
pub const SOFTCAP: f64 = nanochat_tensor::ops::SOFTCAP as f64;

/// The keys whose values are read.
const READ: [&str; 13] = [
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
];

/// The types of weights. The files themselves decide. Everything is computed in float32, or in bf16 on request.
const TYPES: &[&str] = &[r#""float32""#, r#""bfloat16""#, r#""float16""#, "null"];
/// The implementations of attention, which compute the same sums in different orders.
const ATTENTION: &[&str] = &[r#""eager""#, r#""sdpa""#, r#""flash_attention_2""#, "null"];

/// The keys that affect the computation, with the values, as JSON, that leave it unchanged.
const FIXED: [(&str, &[&str]); 20] = [
    ("architectures", &[r#"["NanoChatForCausalLM"]"#, "null"]),
    ("hidden_act", &[r#""relu2""#]),
    ("final_logit_softcapping", &["15.0"]),
    ("attention_bias", &["false"]),
    ("attention_dropout", &["0.0"]),
    ("tie_word_embeddings", &["false"]),
    ("partial_rotary_factor", &["1.0", "null"]),
    ("layer_types", &["null"]),
    ("sliding_window", &["null"]),
    ("attention_chunk_size", &["null"]),
    ("per_layer_config", &["null"]),
    ("quantization_config", &["null"]),
    ("is_decoder", &["false"]),
    ("is_encoder_decoder", &["false"]),
    ("add_cross_attention", &["false"]),
    ("chunk_size_feed_forward", &["0"]),
    ("dtype", TYPES),
    ("torch_dtype", TYPES),
    ("attn_implementation", ATTENTION),
    ("_attn_implementation", ATTENTION),
];

/// The keys that do not affect the computation in transformers. Values that `generate` would take from some of them
/// come here from the tokenizer and the options of a request.
const WITHOUT_EFFECT: [&str; 55] = [
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "_attn_implementation_autoset",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "tokenizer_class",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    // Keys of `generate`, which are dropped on reading.
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "epsilon_cutoff",
    "eta_cutoff",
    "encoder_repetition_penalty",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
    "num_beam_groups",
    "diversity_penalty",
];

/// The keys inside `rope_parameters` and `rope_scaling` besides rope_theta. `type` is the older name.
const ROPE: [(&str, &[&str]); 3] = [
    ("rope_type", &[r#""default""#]),
    ("type", &[r#""default""#]),
    ("partial_rotary_factor", &["1.0", "null"]),
];

/// Returns an error for a key that is unknown or whose value describes another model.
pub fn check(key: &str, value: &Value) -> Result<(), String> {
    if READ.contains(&key) || WITHOUT_EFFECT.contains(&key) {
        return Ok(());
    }
    if key == "tie_word_embeddings" && *value == true {
        return Err("tie_word_embeddings is true, and tied embeddings are not supported; \
            save the model with an lm_head of its own"
            .into());
    }
    fixed(&FIXED, key, key, value)
}

/// Checks a key inside `rope_parameters`, called `name` in the error, like [`check`].
pub fn check_rope(key: &str, name: &str, value: &Value) -> Result<(), String> {
    fixed(&ROPE, key, name, value)
}

fn fixed(known: &[(&str, &[&str])], key: &str, name: &str, value: &Value) -> Result<(), String> {
    let Some((_, accepted)) = known.iter().find(|(known, _)| *known == key) else {
        return Err(format!(
            "it has the key {name}, which is not known and may change the result; remove it if it does not"
        ));
    };
    match accepted.iter().any(|accepted| is_same(value, accepted)) {
        true => Ok(()),
        false => Err(format!("{name} is {value}, and only {} can be computed", accepted.join(" or "))),
    }
}

/// Whether two values are equal; numbers compare by value, so 15 is 15.0.
fn is_same(value: &Value, json: &str) -> bool {
    let wanted: Value = serde_json::from_str(json).expect("JSON in this file");
    *value == wanted || value.as_f64().is_some_and(|value| wanted.as_f64() == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_softcap_that_is_computed_is_taken() {
        assert_eq!(check("final_logit_softcapping", &SOFTCAP.into()), Ok(()));
        assert!(check("final_logit_softcapping", &30.0.into()).is_err());
    }
}
