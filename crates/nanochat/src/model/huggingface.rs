//! The layout of a model folder that Hugging Face `transformers` can load (`NanoChatForCausalLM`): config.json and
//! model.safetensors with its tensor names.

use std::path::PathBuf;

use nanochat_tensor::safetensors::SafetensorsError;
use nanochat_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::model::config::{ConfigError, GptConfig};

mod config;
mod keys;
#[cfg(test)]
mod tests;
mod weights;

pub use config::{config_json, read_config};
pub use weights::{load_model, save_weights};

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("failed to read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{} describes no model that can be computed here: {message}", path.display())]
    Config { path: PathBuf, message: String },
    #[error("{}: {error}", path.display())]
    Sizes { path: PathBuf, error: ConfigError },
    #[error("{}: {message}", path.display())]
    Index { path: PathBuf, message: String },
    #[error("{}: tensor {name} {problem}", path.display())]
    Tensor { path: PathBuf, name: String, problem: String },
    #[error(
        "{} is a pickle, which can run programs when it is read; load it in Python and save it as safetensors: model.save_pretrained(FOLDER)",
        path.display()
    )]
    Pickle { path: PathBuf },
    #[error(
        "{} is of an adapter, which is not read; add it to its model and save that: model.merge_and_unload().save_pretrained(FOLDER)",
        path.display()
    )]
    Adapter { path: PathBuf },
    #[error(
        "the model in {} needs {:.1} GB of memory, and this machine has {:.1}",
        path.display(), needed / 1e9, there / 1e9
    )]
    Memory { path: PathBuf, needed: f64, there: f64 },
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
}

/// Converts our name of a weight to its name in model.safetensors.
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

/// The ids of the tokens that transformers' `generate` needs.
#[derive(Clone, Copy, Debug)]
pub struct TokenIds {
    pub bos: u32,
    pub eos: u32,
}

/// The chat template for `apply_chat_template`, which renders conversations like `Conversation::render`. It has no `{%
/// generation %}` marks, from which transformers would make our training mask: this tag is transformers' own addition
/// to Jinja, and programs with plain jinja2 or minijinja (such as llama-cpp-python) do not load a model whose template
/// has it.
pub const CHAT_TEMPLATE: &str = include_str!("hf/chat_template.jinja");

impl TokenIds {
    /// Returns the ids for a tokenizer. An answer ends with `<|assistant_end|>`; a tokenizer without chat tokens ends
    /// documents with `<|bos|>`, and one without any special tokens ends at id 0.
    pub fn of(tokenizer: &Tokenizer) -> TokenIds {
        let bos = tokenizer.special("<|bos|>").unwrap_or(0);
        let end = tokenizer.special("<|assistant_end|>").unwrap_or(bos);
        TokenIds { bos, eos: end }
    }
}

/// Returns the values of generation_config.json, the defaults of `generate`. The padding token must be among the tokens
/// that end an answer, or `generate` takes every `<|bos|>` for padding. No length is given: as `max_new_tokens` it
/// would overrule a caller's `max_length` (which lm-eval sets).
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

/// Returns the values of tokenizer_config.json. The prompts of a batch are padded on the left, since `generate`
/// continues on the right.
pub fn tokenizer_config_json(config: &GptConfig) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|bos|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.sequence_len,
    })
}
