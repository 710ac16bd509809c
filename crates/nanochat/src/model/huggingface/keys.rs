//! The keys of config.json that are known. All others are refused: what a newer transformers, or the code that comes with
//! a model, makes of them may change every result.

use serde_json::Value;

/// Logits are capped at this, and the loss relies on it: its exponents need no largest logit.
pub const SOFTCAP: f64 = nanochat_tensor::ops::SOFTCAP as f64;

/// Keys whose values are read.
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

/// Types of weights: what is in the files says more. Everything is computed in float32, or in bf16 where a user asks for it.
const TYPES: &[&str] = &[r#""float32""#, r#""bfloat16""#, r#""float16""#, "null"];
/// The same sums in other orders.
const ATTENTION: &[&str] = &[r#""eager""#, r#""sdpa""#, r#""flash_attention_2""#, "null"];

/// Keys that change what is computed, with the values that change nothing, as JSON.
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

/// Keys that transformers carries without computing anything else. What `generate` would take from some of them comes
/// from the tokenizer and from the options of a request here.
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
    // Of `generate`: dropped as they are read.
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

/// Keys inside `rope_parameters` and `rope_scaling` besides rope_theta. `type` is the older name.
const ROPE: [(&str, &[&str]); 3] = [
    ("rope_type", &[r#""default""#]),
    ("type", &[r#""default""#]),
    ("partial_rotary_factor", &["1.0", "null"]),
];

/// Refuses a key that is unknown, or that has a value with which another model would be computed.
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

/// The same for a key inside `rope_parameters`, which is called `name`.
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

/// Numbers by their value: 15 is 15.0.
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
