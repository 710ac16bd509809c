//! The layout of a model folder that Hugging Face `transformers` loads as it is
//! (`NanoChatForCausalLM`): config.json, model.safetensors under its tensor names.

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

/// Renders conversations as `Conversation::render` does, for `apply_chat_template`. It has no `{% generation %}` marks, from
/// which transformers would make our mask of training: the tag is its own addition to Jinja, and programs on plain jinja2
/// or minijinja (llama-cpp-python, for one) do not load a model whose template has it.
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

/// The values of tokenizer_config.json. Prompts of one batch are padded on the left: `generate` goes on at the right.
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
