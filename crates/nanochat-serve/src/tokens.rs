//! The tokenizer behind HTTP: `/tokenize`, `/detokenize` and `/tokenizer_info`, as vLLM has them. With them an
//! evaluation needs no copy of the tokenizer (lm-eval's `tokenizer_backend=remote`).
//!
//! `/tokenize` knows two forms. `{"prompt"}` alone is ours: names of special tokens are text, as in every prompt. With
//! `add_special_tokens` it is vLLM's, and reads a text as transformers does: `<|bos|>` in it is that token, which is how
//! clients learn its id; `true` puts one more in front, as `/v1/completions` does with a text.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use nanochat::config::GptConfig;
use nanochat::conversation::Message;
use nanochat::huggingface::{CHAT_TEMPLATE, tokenizer_config_json};
use nanochat_tokenizer::Tokenizer;
use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use crate::aside::aside;
use crate::body::{JsonBody, LARGEST};
use crate::error::ApiError;
use crate::fields::{Fields, FromFields};
use crate::openai::check_model;
use crate::openai::messages::messages;
use crate::openai::turns::{alternating, prompt};
use crate::{Server, Shared};

/// Names of special tokens in a text.
pub struct Marks(Regex);

impl Marks {
    pub fn of(tokenizer: &Tokenizer) -> Result<Marks, regex::Error> {
        let mut names: Vec<&str> = tokenizer.special_names().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len())); // of names that begin alike the longest counts
        let names: Vec<String> = names.into_iter().map(regex::escape).collect();
        // Without names a pattern that fits nowhere; an imported file may have thousands of long ones.
        let pattern = if names.is_empty() { "[^\\s\\S]".to_string() } else { names.join("|") };
        RegexBuilder::new(&pattern).size_limit(1 << 30).build().map(Marks)
    }

    /// The tokens of `text`, where names of special tokens are these tokens. Time linear in the text.
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

/// What `/tokenizer_info` answers: tokenizer_config.json, and the template of chats. A tokenizer from elsewhere may lack
/// our special tokens.
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

/// The tokens of a text, or of a chat with its marks, and how many there may be.
pub async fn tokenize(
    State(server): State<Shared>,
    JsonBody(request, size): JsonBody<TokenizeRequest>,
) -> Result<Response, ApiError> {
    aside(size, move || Ok(Json(tokens_of(&server, request)?).into_response())).await
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

/// The text of tokens: special tokens give their names, bytes that are no character U+FFFD.
pub async fn detokenize(
    State(server): State<Shared>,
    JsonBody(request, size): JsonBody<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    aside(size, move || Ok(Json(text_of(&server, &request)?).into_response())).await
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
    // A body of one MiB could ask for a hundred times as much.
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
        Marks::of(&tokenizer).unwrap().encode(&tokenizer, "é<|bos|>xa(b<|bos|><|bo", &mut ids);
        let expected =
            [tokenizer.encode("é"), vec![id("<|bos|>x"), id("a(b"), id("<|bos|>")], tokenizer.encode("<|bo")];
        assert_eq!(ids, expected.concat());
    }
}
