//! The layout of a model folder that Hugging Face `transformers` loads as it is
//! (`NanoChatForCausalLM`): config.json, model.safetensors under its tensor names.

use std::path::{Path, PathBuf};

use nanochat_tensor::safetensors::{self, SafetensorsError, SaveAs};
use nanochat_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::config::{ConfigError, GptConfig};
use crate::gpt::Gpt;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("failed to read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{} is not the configuration of a nanochat model: {message}", path.display())]
    Config { path: PathBuf, message: String },
    #[error("{}: {error}", path.display())]
    Sizes { path: PathBuf, error: ConfigError },
    #[error("{}: tensor {name} {problem}", path.display())]
    Tensor { path: PathBuf, name: String, problem: String },
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
}

/// Our name of a weight -> its name in model.safetensors.
pub fn tensor_name(name: &str) -> String {
    match name {
        "transformer.wte.weight" => return "model.embed_tokens.weight".into(),
        "lm_head.weight" => return name.into(),
        _ => {}
    }
    let renames = [
        ("transformer.h.", "model.layers."),
        (".attn.c_q.", ".self_attn.q_proj."),
        (".attn.c_k.", ".self_attn.k_proj."),
        (".attn.c_v.", ".self_attn.v_proj."),
        (".attn.c_proj.", ".self_attn.o_proj."),
        (".mlp.c_fc.", ".mlp.fc1."),
        (".mlp.c_proj.", ".mlp.fc2."),
    ];
    renames.iter().fold(name.to_string(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// Ids of the tokens that transformers' `generate` has to know.
#[derive(Clone, Copy, Debug)]
pub struct TokenIds {
    pub bos: u32,
    pub eos: u32,
}

/// Renders conversations as `Conversation::render` does, for `apply_chat_template`.
pub const CHAT_TEMPLATE: &str = include_str!("hf/chat_template.jinja");

impl TokenIds {
    /// An answer ends with `<|assistant_end|>`. A tokenizer without chat tokens ends documents with
    /// `<|bos|>`, and one without any at id 0.
    pub fn of(tokenizer: &Tokenizer) -> TokenIds {
        let bos = tokenizer.special("<|bos|>").unwrap_or(0);
        let end = tokenizer.special("<|assistant_end|>").unwrap_or(bos);
        TokenIds { bos, eos: end }
    }
}

/// The values of generation_config.json: what `generate` does without further options. The padding
/// token must be among those that end an answer, or `generate` takes every `<|bos|>` for padding. A length is not said: as
/// `max_new_tokens` it would overrule the `max_length` that a caller gives (lm-eval does).
pub fn generation_config_json(ids: TokenIds) -> Value {
    json!({
        "bos_token_id": ids.bos,
        "eos_token_id": [ids.eos, ids.bos],
        "pad_token_id": ids.bos,
        "do_sample": true,
        "temperature": 0.6,
        "top_k": 50,
    })
}

/// The values of tokenizer_config.json.
pub fn tokenizer_config_json(config: &GptConfig) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|bos|>",
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.sequence_len,
    })
}

/// The values of config.json. Those that are transformers' defaults but differ between its versions
/// are written out, so that the file means one model.
pub fn config_json(config: &GptConfig, ids: TokenIds, dtype: SaveAs) -> Value {
    json!({
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim(),
        "max_position_embeddings": config.sequence_len,
        "hidden_act": "relu2",
        "rms_norm_eps": nanochat_tensor::ops::EPS as f64,
        "rope_parameters": { "rope_type": "default", "rope_theta": 10000.0 },
        "final_logit_softcapping": 15.0,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": false,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        // With a padding token (or without the key) transformers never trains that row of the embedding.
        "pad_token_id": null,
        "dtype": match dtype { SaveAs::F32 => "float32", SaveAs::Bf16 => "bfloat16" },
        // The first release whose folders need no check of their tokenizer.
        "transformers_version": "5.23.0",
    })
}

/// Sizes from a model folder's config.json, refused where they describe another architecture.
pub fn read_config(folder: &Path) -> Result<GptConfig, ModelError> {
    let path = folder.join("config.json");
    let text =
        std::fs::read_to_string(&path).map_err(|error| ModelError::Read { path: path.clone(), error })?;
    let wrong = |message: String| ModelError::Config { path: path.clone(), message };
    let json: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if json["model_type"] != "nanochat" {
        return Err(wrong(format!("model_type is {}, not \"nanochat\"", json["model_type"])));
    }
    // transformers leaves out what equals its defaults.
    let size = |name: &str| match json[name].as_u64().or(default_size(name).filter(|_| json[name].is_null()))
    {
        Some(n) if (1..1 << 32).contains(&n) => Ok(n as usize),
        _ => Err(wrong(format!("{name} is {}, not a size", json[name]))),
    };
    let config = GptConfig {
        sequence_len: size("max_position_embeddings")?,
        vocab_size: size("vocab_size")?,
        n_layer: size("num_hidden_layers")?,
        n_head: size("num_attention_heads")?,
        n_kv_head: match &json["num_key_value_heads"] {
            Value::Null => size("num_attention_heads")?,
            _ => size("num_key_value_heads")?,
        },
        n_embd: size("hidden_size")?,
    };
    if size("intermediate_size")? != 4 * config.n_embd {
        return Err(wrong("intermediate_size is not 4 x hidden_size".into()));
    }
    if !config.n_embd.is_multiple_of(2 * config.n_head) {
        return Err(wrong(format!("{} heads do not divide hidden_size {}", config.n_head, config.n_embd)));
    }
    let known = |name: &str, value: f64| match json[name].as_f64() {
        Some(found) if (found - value).abs() > 1e-6 * value => {
            Err(wrong(format!("{name} is {found}, not {value}")))
        }
        _ => Ok(()),
    };
    known("final_logit_softcapping", 15.0)?;
    if let Some(theta) = json["rope_parameters"]["rope_theta"].as_f64().filter(|&theta| theta != 10_000.0) {
        return Err(wrong(format!("rope_theta is {theta}, not 10000")));
    }
    config.checked().map_err(|error| ModelError::Sizes { path, error })
}

/// Defaults of transformers' `NanoChatConfig`.
fn default_size(name: &str) -> Option<u64> {
    let defaults = [
        ("vocab_size", 50_304),
        ("hidden_size", 768),
        ("intermediate_size", 8_192),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 6),
        ("max_position_embeddings", 2_048),
    ];
    defaults.into_iter().find(|(known, _)| *known == name).map(|(_, size)| size)
}

/// The model of a folder: config.json and model.safetensors.
pub fn load_model(folder: &Path) -> Result<Gpt, ModelError> {
    let config = read_config(folder)?;
    let path = folder.join("model.safetensors");
    let mut tensors = safetensors::load(&path)?;
    let problem =
        |name: &str, problem: String| ModelError::Tensor { path: path.clone(), name: name.into(), problem };
    let gpt = Gpt::from_weights(config, |name, shape| {
        let name = tensor_name(name);
        let tensor = tensors.remove(&name).ok_or_else(|| problem(&name, "is missing".into()))?;
        match tensor.shape() == shape {
            true => Ok(tensor),
            false => Err(problem(&name, format!("has shape {:?} instead of {shape:?}", tensor.shape()))),
        }
    })?;
    match tensors.keys().next() {
        None => Ok(gpt),
        Some(name) => Err(problem(name, "belongs to no part of the model that config.json describes".into())),
    }
}

/// Writes model.safetensors into `folder`.
pub fn save_weights(folder: &Path, model: &Gpt, dtype: SaveAs) -> Result<(), ModelError> {
    let tensors = model.params().into_iter().map(|(name, _, weight)| (tensor_name(&name), weight));
    Ok(safetensors::save(&folder.join("model.safetensors"), tensors, dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: TokenIds = TokenIds { bos: 0, eos: 1 };

    fn write_folder(folder: &Path) -> Gpt {
        let model = Gpt::init(GptConfig::from_depth(2, 40, 16).unwrap(), 3);
        save_weights(folder, &model, SaveAs::F32).unwrap();
        let json = config_json(&model.config, IDS, SaveAs::F32);
        std::fs::write(folder.join("config.json"), json.to_string()).unwrap();
        model
    }

    #[test]
    fn a_model_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let model = write_folder(dir.path());
        let loaded = load_model(dir.path()).unwrap();
        assert_eq!(loaded.config, model.config);
        for ((name, _, a), (_, _, b)) in model.params().into_iter().zip(loaded.params()) {
            assert_eq!(a.data(), b.data(), "{name}");
        }
    }

    #[test]
    fn sizes_that_transformers_leaves_out_are_its_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let json = json!({ "model_type": "nanochat", "hidden_size": 2_048, "num_attention_heads": 16 });
        std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
        let config = read_config(dir.path()).unwrap();
        assert_eq!((config.n_layer, config.n_kv_head, config.vocab_size), (12, 16, 50_304));
    }

    #[test]
    fn other_models_and_other_sizes_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let model = write_folder(dir.path());
        let good = config_json(&model.config, IDS, SaveAs::F32);
        let message = |key: &str, value: Value| {
            let mut json = good.clone();
            json[key] = value;
            std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
            load_model(dir.path()).err().expect("refused").to_string()
        };
        assert!(message("model_type", "llama".into()).contains("model_type is \"llama\""));
        assert!(
            message("vocab_size", 41.into())
                .contains("embed_tokens.weight has shape [40, 128] instead of [41, 128]")
        );
        assert!(
            message("num_hidden_layers", 3.into()).contains("layers.2.self_attn.q_proj.weight is missing")
        );
        assert!(message("num_hidden_layers", 1.into()).contains("belongs to no part"));
        assert!(message("hidden_size", (-1).into()).contains("hidden_size is -1"));
        assert!(message("num_key_value_heads", 5.into()).contains("do not divide"));
        assert!(message("intermediate_size", 8192.into()).contains("intermediate_size"));
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        assert!(matches!(load_model(dir.path()), Err(ModelError::Read { .. })));
    }
}
