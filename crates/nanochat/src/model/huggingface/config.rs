//! Reads and writes config.json, which describes a model.

use std::ops::RangeInclusive;
use std::path::Path;

use nanochat_tensor::Dtype;
use serde_json::{Map, Value, json};

use super::keys::{self, SOFTCAP};
use super::{ModelError, TokenIds};
use crate::model::config::{GptConfig, ROPE_THETA};

/// The eps of `NanoChatConfig` if none is given. Ours differs and is always written.
const THEIR_EPS: f32 = 1e-6;
/// The allowed eps: large enough for f32, small enough for a norm.
const EPS_RANGE: RangeInclusive<f64> = 1e-30..=1.0;
/// The allowed rope_theta. From 1 on no angle exceeds its position, for which f32 is accurate enough.
const THETA_RANGE: RangeInclusive<f64> = 1.0..=1e15;

/// Returns the values of config.json. Values that are defaults of transformers but differ between its versions are
/// written out, so that the file describes one model.
pub fn config_json(config: &GptConfig, ids: TokenIds, dtype: Dtype) -> Value {
    // The file contains every number of the model: this does not compile while a new one is missing.
    let GptConfig { sequence_len, vocab_size, n_layer, n_head, n_kv_head, n_embd, rms_norm_eps, rope_theta } =
        *config;
    json!({
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": vocab_size,
        "hidden_size": n_embd,
        "intermediate_size": 4 * n_embd,
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "num_key_value_heads": n_kv_head,
        "head_dim": config.head_dim(),
        "max_position_embeddings": sequence_len,
        "hidden_act": "relu2",
        "rms_norm_eps": decimal(rms_norm_eps),
        "rope_parameters": { "rope_type": "default", "rope_theta": decimal(rope_theta) },
        "final_logit_softcapping": SOFTCAP,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": false,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        // With a padding token (or without this key), transformers would never train that row of the embedding.
        "pad_token_id": null,
        "dtype": torch_name(dtype),
        // The first release whose folders need no separate check of their tokenizer.
        "transformers_version": "5.23.0",
    })
}

/// Returns the type's name in PyTorch, which transformers reads.
fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
        Dtype::Int8 => "int8",
        Dtype::U32 => "uint32",
    }
}

/// Returns the shortest decimal number that equals this f32: 1e-6 stays 1e-6 instead of 9.99999997e-7.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().expect("a number is written as one")
}

/// Reads a folder's config.json. Fails with the name of the key if it describes another architecture.
pub fn read_config(folder: &Path) -> Result<GptConfig, ModelError> {
    let path = folder.join("config.json");
    let text =
        std::fs::read_to_string(&path).map_err(|error| ModelError::Read { path: path.clone(), error })?;
    let wrong = |message: String| ModelError::Config { path: path.clone(), message };
    let json: Map<String, Value> = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let config = parsed(&json).map_err(wrong)?;
    config.checked().map_err(|error| ModelError::Sizes { path, error })
}

fn parsed(json: &Map<String, Value>) -> Result<GptConfig, String> {
    let value = |key: &str| json.get(key).unwrap_or(&Value::Null);
    if value("model_type") != "nanochat" {
        return Err(format!("model_type is {}, not \"nanochat\"", value("model_type")));
    }
    json.iter().try_for_each(|(key, value)| keys::check(key, value))?;
    // transformers leaves out values that equal its defaults.
    let size = |key: &str, default: usize| match json.get(key) {
        None => Ok(default),
        Some(value) => match value.as_u64().filter(|n| (1..1 << 40).contains(n)) {
            Some(n) => Ok(n as usize),
            None => Err(format!("{key} is {value}, not a size")),
        },
    };
    let n_head = size("num_attention_heads", 6)?;
    let config = GptConfig {
        sequence_len: size("max_position_embeddings", 2_048)?,
        vocab_size: size("vocab_size", 50_304)?,
        n_layer: size("num_hidden_layers", 12)?,
        n_head,
        n_kv_head: if value("num_key_value_heads").is_null() {
            n_head
        } else {
            size("num_key_value_heads", 0)?
        },
        n_embd: size("hidden_size", 768)?,
        rms_norm_eps: match json.get("rms_norm_eps") {
            Some(eps) => number("rms_norm_eps", eps, EPS_RANGE)?,
            None => THEIR_EPS,
        },
        rope_theta: rope_theta(json)?,
    };
    let intermediate_size = size("intermediate_size", 8_192)?;
    if intermediate_size != 4 * config.n_embd {
        return Err(format!(
            "intermediate_size is {intermediate_size}, not 4 x hidden_size {}",
            config.n_embd
        ));
    }
    if !config.n_embd.is_multiple_of(2 * n_head) {
        return Err(format!(
            "num_attention_heads is {n_head}, and so many heads of an even size do not divide hidden_size {}",
            config.n_embd
        ));
    }
    match value("head_dim") {
        head_dim if head_dim.is_null() || head_dim.as_u64() == Some(config.head_dim() as u64) => Ok(config),
        head_dim => Err(format!("head_dim is {head_dim}, not hidden_size / num_attention_heads")),
    }
}

/// Returns the base of the rotary positions. It is in `rope_parameters`, in older files in `rope_scaling` or outside of
/// both.
fn rope_theta(json: &Map<String, Value>) -> Result<f32, String> {
    let is_there = |key: &&str| json.get(*key).is_some_and(|value| !value.is_null() && *value != json!({}));
    let groups: Vec<&str> = ["rope_parameters", "rope_scaling"].into_iter().filter(is_there).collect();
    let mut found = match json.get("rope_theta") {
        Some(theta) => vec![number("rope_theta", theta, THETA_RANGE)?],
        None => Vec::new(),
    };
    match groups[..] {
        [] => {}
        [group] => {
            let Some(values) = json[group].as_object() else {
                return Err(format!("{group} is {}, not an object", json[group]));
            };
            for (key, value) in values {
                let name = format!("{group}.{key}");
                match &key[..] {
                    "rope_theta" => found.push(number(&name, value, THETA_RANGE)?),
                    _ => keys::check_rope(key, &name, value)?,
                }
            }
        }
        // transformers would use the older one.
        _ => return Err("rope_parameters and rope_scaling are both given; remove one of them".into()),
    }
    match found[..] {
        [] => Ok(ROPE_THETA),
        [first, .., last] if first != last => Err(format!("rope_theta is both {first} and {last}")),
        [theta, ..] => Ok(theta),
    }
}

fn number(name: &str, value: &Value, range: RangeInclusive<f64>) -> Result<f32, String> {
    match value.as_f64() {
        Some(x) if range.contains(&x) => Ok(x as f32),
        _ => Err(format!("{name} is {value}, not a number from {:e} to {:e}", range.start(), range.end())),
    }
}
