//! Tokenization over HTTP: `/tokenize`, `/detokenize` and `/tokenizer_info`, compatible with vLLM. An evaluation that
//! uses them needs no copy of the tokenizer (lm-eval's `tokenizer_backend=remote`).
//!
//! `/tokenize` accepts two forms. With `{"prompt"}` alone, names of special tokens are plain text, as in every prompt
//! of this server. With `add_special_tokens` it behaves like vLLM and transformers: `<|bos|>` in a text becomes that
//! token, by which clients learn its id; `true` prepends another one, as `/v1/completions` does.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use nanochat::conversation::Message;
use nanochat::model::config::GptConfig;
use nanochat::model::huggingface::{CHAT_TEMPLATE, tokenizer_config_json};
use nanochat_tokenizer::Tokenizer;
use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, FromFields};
use crate::json_body::{JsonBody, LARGEST};
use crate::offload::offload;
use crate::openai::check_model;
use crate::openai::messages::messages;
use crate::openai::turns::{alternating, prompt};
use crate::{Server, Shared};

/// Finds the names of special tokens in a text.
pub struct SpecialNames(Regex);

impl SpecialNames {
    pub fn of(tokenizer: &Tokenizer) -> Result<SpecialNames, regex::Error> {
        let mut names: Vec<&str> = tokenizer.special_names().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len())); // a longer name wins over its own prefix
        let names: Vec<String> = names.into_iter().map(regex::escape).collect();
        // Without names, a pattern that never matches. An imported file may have thousands of long names.
        let pattern = if names.is_empty() { "[^\\s\\S]".to_string() } else { names.join("|") };
        RegexBuilder::new(&pattern).size_limit(1 << 30).build().map(SpecialNames)
    }

    /// Appends the tokens of `text`, in which names of special tokens become those tokens. Takes time linear in the
    /// text.
    fn encode(&self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        let mut done = 0;
        for found in self.0.find_iter(text) {
            tokenizer.encode_into(&text[done..found.start()], ids);
            ids.extend(tokenizer.special(found.as_str()));
            done = found.end();
        }
        tokenizer.encode_into(&text[done..], ids);
    }
}

/// Returns the body of `/tokenizer_info`: tokenizer_config.json and the chat template. An imported tokenizer may lack
/// nanochat's special tokens.
pub fn tokenizer_info(tokenizer: &Tokenizer, config: &GptConfig) -> Value {
    let mut info = tokenizer_config_json(config);
    for name in ["bos_token", "eos_token", "pad_token"] {
        if info[name].as_str().is_none_or(|token| tokenizer.special(token).is_none()) {
            info[name] = Value::Null;
        }
    }
    info["chat_template"] = json!(CHAT_TEMPLATE);
    info
}

pub async fn info(State(server): State<Shared>) -> Json<Value> {
    Json(server.tokenizer_info.clone())
}

pub struct TokenizeRequest {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    add_special_tokens: Option<bool>,
    add_generation_prompt: Option<bool>,
}

impl FromFields for TokenizeRequest {
    fn from_fields(fields: &mut Fields) -> Result<TokenizeRequest, ApiError> {
        Ok(TokenizeRequest {
            model: fields.text("model")?,
            prompt: fields.text("prompt")?,
            messages: fields.has("messages").then(|| messages(fields)).transpose()?,
            add_special_tokens: fields.flag("add_special_tokens")?,
            add_generation_prompt: fields.flag("add_generation_prompt")?,
        })
    }
}

/// The route `/tokenize`: the tokens of a text or of a rendered chat, and the length of the context.
pub async fn tokenize(
    State(server): State<Shared>,
    JsonBody(request, size): JsonBody<TokenizeRequest>,
) -> Result<Response, ApiError> {
    offload(size, move || Ok(Json(tokens_of(&server, request)?).into_response())).await
}

fn tokens_of(server: &Server, request: TokenizeRequest) -> Result<Value, ApiError> {
    check_model(server, request.model.as_deref())?;
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) => match request.add_special_tokens {
            None => server.tokenizer.encode(&text),
            Some(in_front) => {
                let bos = server.tokenizer.special("<|bos|>").filter(|_| in_front);
                let mut ids = bos.into_iter().collect();
                server.marks.encode(&server.tokenizer, &text, &mut ids);
                ids
            }
        },
        (None, Some(_)) if request.add_special_tokens == Some(true) => {
            let message = "a chat has its <|bos|> already; leave add_special_tokens out";
            return Err(ApiError::bad("add_special_tokens", message));
        }
        (None, Some(_)) if request.add_generation_prompt == Some(false) => {
            let message = "a chat is tokenized as the prompt of an answer; leave add_generation_prompt out";
            return Err(ApiError::bad("add_generation_prompt", message));
        }
        (None, Some(chat)) => prompt(server, alternating(chat)?, None)?.0,
        _ => return Err(ApiError::bad("prompt", "either prompt or messages is wanted")),
    };
    Ok(json!({"count": tokens.len(), "max_model_len": server.context, "tokens": tokens}))
}

pub struct DetokenizeRequest {
    model: Option<String>,
    tokens: Vec<u32>,
}

impl FromFields for DetokenizeRequest {
    fn from_fields(fields: &mut Fields) -> Result<DetokenizeRequest, ApiError> {
        const LIST: &str = "a list of token ids";
        let tokens = fields.list("tokens", LIST)?;
        let tokens = tokens.ok_or_else(|| fields.bad("tokens", "is missing; it is a list of token ids"))?;
        let id = |value: Value| match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(id),
            None => Err(fields.wrong("tokens", LIST, &value)),
        };
        let tokens = tokens.into_iter().map(id).collect::<Result<_, ApiError>>()?;
        Ok(DetokenizeRequest { model: fields.text("model")?, tokens })
    }
}

/// The route `/detokenize`: the text of tokens. Special tokens become their names, invalid UTF-8 becomes U+FFFD.
pub async fn detokenize(
    State(server): State<Shared>,
    JsonBody(request, size): JsonBody<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    offload(size, move || Ok(Json(text_of(&server, &request)?).into_response())).await
}

fn text_of(server: &Server, request: &DetokenizeRequest) -> Result<Value, ApiError> {
    check_model(server, request.model.as_deref())?;
    let mut bytes = 0;
    for &id in &request.tokens {
        let Some(token) = server.tokenizer.token_bytes(id) else {
            let known = server.tokenizer.vocab_size();
            let message = format!("token {id} is not in the vocabulary of {known}");
            return Err(ApiError::bad("tokens", message));
        };
        bytes += token.len();
    }
    // A body of one MiB could expand to a hundred times as much text.
    if bytes > LARGEST {
        let message =
            format!("these tokens are a text of {bytes} bytes, and {LARGEST} may be asked for at once");
        return Err(ApiError::bad("tokens", message));
    }
    Ok(json!({"prompt": server.tokenizer.decode(&request.tokens)}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanochat_tokenizer::{TrainOptions, train};

    #[test]
    fn the_longest_of_names_that_begin_alike_counts() {
        let extra_special = vec!["<|bos|>x".to_string(), "a(b".to_string()];
        let options = TrainOptions { vocab_size: 267, extra_special, ..TrainOptions::default() };
        let tokenizer = train(["a"].iter(), &options).unwrap();
        let id = |name: &str| tokenizer.special(name).unwrap();
        let mut ids = Vec::new();
        SpecialNames::of(&tokenizer).unwrap().encode(&tokenizer, "é<|bos|>xa(b<|bos|><|bo", &mut ids);
        let expected =
            [tokenizer.encode("é"), vec![id("<|bos|>x"), id("a(b"), id("<|bos|>")], tokenizer.encode("<|bo")];
        assert_eq!(ids, expected.concat());
    }
}
