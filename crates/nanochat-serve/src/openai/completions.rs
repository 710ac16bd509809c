//! The route `/v1/completions`: continues a text. A text prompt follows `<|bos|>`, as every document did in training; a
//! list of token ids is used unchanged. The `text` of a choice omits calculator calls and their results; `usage` counts
//! the tokens of both, and `logprobs` includes those of the calls, which the model sampled.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use nanochat::conversation::PartKind;
use nanochat::engine::sampler::{Logprobs, SampleOptions};
use serde::Deserialize;
use serde_json::{Value, json};

use super::logprobs::Lists;
use super::sampling::{length, room};
use super::unsupported::{self, settle};
use super::{MOST_SAMPLES, SamplingFields, check_model, finish_reason, usage};
use crate::access::ClientRights;
use crate::error::ApiError;
use crate::events;
use crate::fields::{Fields, FromFields};
use crate::generation::{Delta, Generation, score};
use crate::json_body::JsonBody;
use crate::offload::offload;
use crate::{Server, Shared};

pub struct CompletionRequest {
    prompt: Prompts,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    best_of: Option<usize>,
    sampling: SamplingFields,
}

impl FromFields for CompletionRequest {
    fn from_fields(fields: &mut Fields) -> Result<CompletionRequest, ApiError> {
        let request = CompletionRequest {
            prompt: fields.own("prompt")?.ok_or_else(|| ApiError::bad("prompt", "prompt is missing"))?,
            max_tokens: length(fields, "max_tokens", 0)?,
            logprobs: fields.count("logprobs")?,
            echo: fields.flag("echo")?,
            best_of: fields.count("best_of")?,
            sampling: SamplingFields::from_fields(fields)?,
        };
        settle(fields, &unsupported::COMPLETION)?;
        Ok(request)
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "prompt must be a text, a list of texts, a list of token ids, or a list of those"
)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// A prompt in tokens; the client did not send the first `hidden` of them.
struct CompletionPrompt {
    ids: Vec<u32>,
    hidden: usize,
}

/// The output of one choice so far.
#[derive(Default)]
struct CompletionChoice {
    text: String,
    /// The length of `text` in characters.
    length: usize,
    lists: Lists,
    finish: Option<&'static str>,
}

struct PreparedCompletion {
    server: Shared,
    request: CompletionRequest,
    prompts: Vec<CompletionPrompt>,
    id: String,
    created: u64,
}

pub async fn completions(
    State(server): State<Shared>,
    Extension(rights): Extension<ClientRights>,
    JsonBody(request, size): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let prepare = move || {
        check_model(&server, request.sampling.model.as_deref())?;
        let prompts = prompts(&server, &request)?;
        let options = options(&server, &request)?;
        let (id, created) = (server.fresh_id("cmpl"), server.now());
        Ok((PreparedCompletion { server, request, prompts, id, created }, options))
    };
    let (completion, options) = offload(size, prepare).await?;
    // Checked before the prompts are scored, so that a bad request costs no computation.
    let mut requests = Vec::new();
    for prompt in &completion.prompts {
        let only_scores = completion.echoes() && completion.request.max_tokens == Some(0);
        if !only_scores {
            let room = room(&completion.server, prompt.ids.len(), completion.request.max_tokens, 16)?;
            requests.extend(completion.request.sampling.requests(&prompt.ids, room, options));
        }
    }
    let choices = completion.echoed().await?;
    let stops = &completion.request.sampling.stop;
    let generation = Generation::start(&completion.server, rights.owner, requests, stops)?;
    match completion.request.sampling.streams() {
        true => Ok(completion.stream(generation, choices)),
        false => completion.whole(generation, choices).await,
    }
}

fn prompts(server: &Server, request: &CompletionRequest) -> Result<Vec<CompletionPrompt>, ApiError> {
    let text = |text: &String| {
        let bos = server.tokenizer.special("<|bos|>");
        let mut ids: Vec<u32> = bos.into_iter().collect();
        let hidden = ids.len();
        server.tokenizer.encode_into(text, &mut ids);
        CompletionPrompt { ids, hidden }
    };
    let tokens = |ids: &Vec<u32>| CompletionPrompt { ids: ids.clone(), hidden: 0 };
    let prompts: Vec<CompletionPrompt> = match &request.prompt {
        Prompts::Text(one) => vec![text(one)],
        Prompts::Texts(many) => many.iter().map(text).collect(),
        Prompts::Tokens(one) => vec![tokens(one)],
        Prompts::TokenLists(many) => many.iter().map(tokens).collect(),
    };
    let bad = |message: String| Err(ApiError::bad("prompt", message));
    let (samples, known) = (request.sampling.samples()?, server.tokenizer.vocab_size());
    if prompts.is_empty() || prompts.len() * samples > MOST_SAMPLES {
        return bad(format!(
            "1 to {MOST_SAMPLES} answers may be asked for, found {}",
            prompts.len() * samples
        ));
    }
    for CompletionPrompt { ids, .. } in &prompts {
        match ids.iter().find(|id| **id as usize >= known) {
            Some(id) => return bad(format!("token {id} is outside the vocabulary of {known}")),
            None if ids.is_empty() => return bad("the prompt is empty".into()),
            // One token must be left for the answer unless none is requested.
            None if ids.len() > server.context => {
                let message =
                    format!("the prompt has {} tokens, and the model sees {}", ids.len(), server.context);
                return Err(ApiError::bad("prompt", message).code("context_length_exceeded"));
            }
            None => {}
        }
    }
    Ok(prompts)
}

fn options(server: &Server, request: &CompletionRequest) -> Result<SampleOptions, ApiError> {
    if request.best_of.is_some_and(|best_of| best_of != request.sampling.n.unwrap_or(1)) {
        return Err(ApiError::bad("best_of", "best_of other than n is not supported"));
    }
    if let Some(top) = request.logprobs.filter(|top| *top > 20) {
        return Err(ApiError::bad("logprobs", format!("logprobs must be 0 to 20, found {top}")));
    }
    // The model's own distribution, as on other servers: evaluations rely on it.
    let defaults = SampleOptions { temperature: 1.0, top_k: 0, ..SampleOptions::default() };
    Ok(SampleOptions { logprobs: request.logprobs, ..request.sampling.options(server, defaults)? })
}

impl PreparedCompletion {
    fn echoes(&self) -> bool {
        self.request.echo.unwrap_or(false)
    }

    /// Returns all choices, each beginning with its prompt if `echo` is set.
    async fn echoed(&self) -> Result<Vec<CompletionChoice>, ApiError> {
        let samples = self.request.sampling.samples()?;
        let mut choices = Vec::with_capacity(self.prompts.len() * samples);
        for prompt in &self.prompts {
            let scores = match self.request.logprobs.filter(|_| self.echoes()) {
                Some(top) => score(&self.server, prompt.ids.clone(), top).await?,
                None => Vec::new(),
            };
            choices.extend((0..samples).map(|_| self.choice(prompt, &scores)));
        }
        Ok(choices)
    }

    fn choice(&self, prompt: &CompletionPrompt, scores: &[Logprobs]) -> CompletionChoice {
        let (tokenizer, mut choice) = (&self.server.tokenizer, CompletionChoice::default());
        if !self.echoes() {
            return choice;
        }
        let mut decoder = nanochat_tokenizer::StreamDecoder::new(tokenizer);
        for (i, &id) in prompt.ids.iter().enumerate().skip(prompt.hidden) {
            if self.request.logprobs.is_some() {
                choice.lists.push(
                    tokenizer,
                    id,
                    i.checked_sub(1).map(|before| &scores[before]),
                    choice.length,
                );
            }
            choice.say(&decoder.push(id));
        }
        choice.say(&decoder.finish());
        choice.finish = Some("length"); // replaced if an answer follows
        choice
    }

    fn take(&self, choices: &mut [CompletionChoice], delta: Delta) -> usize {
        let choice = &mut choices[delta.sample];
        // Every sampled token has an entry, even one that the text does not show: evaluations count them.
        if let Some((id, logprobs)) = delta.logprobs.as_ref().or(delta.unseen.as_ref()) {
            choice.lists.push(&self.server.tokenizer, *id, Some(logprobs), choice.length);
        }
        for part in delta.parts.iter().filter(|part| part.kind == PartKind::Text) {
            choice.say(&part.text);
        }
        choice.finish = delta.finish.map(finish_reason);
        delta.sample
    }

    fn choice_json(&self, index: usize, choice: &mut CompletionChoice) -> Value {
        let logprobs = self.request.logprobs.map(|_| choice.lists.take());
        let text = std::mem::take(&mut choice.text);
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish})
    }

    fn json(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.server.model,
            "choices": choices,
        })
    }

    fn usage(&self, generation: &Generation) -> Value {
        usage(self.prompts.iter().map(|prompt| prompt.ids.len()).sum(), generation.tokens)
    }

    async fn whole(
        self,
        mut generation: Generation,
        mut choices: Vec<CompletionChoice>,
    ) -> Result<Response, ApiError> {
        while let Some(delta) = generation.next(&self.server).await {
            self.take(&mut choices, delta?);
        }
        // The log-probabilities of 128 echoed prompts take a hundred MiB.
        let size = if choices.iter().all(|choice| choice.lists.is_empty()) { 0 } else { usize::MAX };
        let json = move || {
            let of_choice = |(i, choice)| self.choice_json(i, choice);
            let mut answer = self.json(choices.iter_mut().enumerate().map(of_choice).collect());
            answer["usage"] = self.usage(&generation);
            Ok(Json(answer).into_response())
        };
        offload(size, json).await
    }

    fn stream(self, mut generation: Generation, mut choices: Vec<CompletionChoice>) -> Response {
        events::respond(async move |events| {
            let chunk = |choices| {
                let mut chunk = self.json(choices);
                if self.request.sampling.includes_usage() {
                    chunk["usage"] = Value::Null;
                }
                chunk
            };
            if self.echoes() {
                let answers = self.request.max_tokens != Some(0);
                for (i, choice) in choices.iter_mut().enumerate() {
                    choice.finish = choice.finish.filter(|_| !answers);
                    events.send(chunk(vec![self.choice_json(i, choice)])).await?;
                }
            }
            loop {
                let delta = tokio::select! {
                    delta = generation.next(&self.server) => delta,
                    () = events.gone() => return Err(events::Gone),
                };
                match delta {
                    None => break,
                    Some(Err(error)) => return events.send(error.body()).await,
                    Some(Ok(delta)) => {
                        let i = self.take(&mut choices, delta);
                        let choice = &mut choices[i];
                        if !choice.text.is_empty() || !choice.lists.is_empty() || choice.finish.is_some() {
                            events.send(chunk(vec![self.choice_json(i, choice)])).await?;
                        }
                    }
                }
            }
            if self.request.sampling.includes_usage() {
                let mut last = self.json(Vec::new());
                last["usage"] = self.usage(&generation);
                events.send(last).await?;
            }
            events.send("[DONE]").await
        })
    }
}

impl CompletionChoice {
    fn say(&mut self, text: &str) {
        self.text.push_str(text);
        self.length += text.chars().count();
    }
}
