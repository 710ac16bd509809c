//! nanochat inside a program of your own: load a model folder, ask, print the answer.
//!
//! cargo run --release -p nanochat --example embed -- MODEL_FOLDER "Why is the sky blue?"

use anyhow::{Context, Result};
use nanochat::conversation::Conversation;
use nanochat::conversation::answer;
use nanochat::engine::sampler::SampleOptions;
use nanochat::engine::{Engine, EngineOptions, Event, Request};
use nanochat::model::checkpoint::{LoadedModel, load_folder};
use nanochat_tensor::Dtype;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().context("want MODEL_FOLDER QUESTION")?;
    let question = args.next().context("want MODEL_FOLDER QUESTION")?;

    let LoadedModel { model, tokenizer, .. } = load_folder(folder.as_ref())?;
    let options = EngineOptions { weights: Dtype::Bf16, ..EngineOptions::default() };
    let mut engine = Engine::with_options(&model, Some(&tokenizer), options);
    let prompt = Conversation::question(&question).render_for_completion(&tokenizer)?;
    let options = SampleOptions::default();
    engine.submit(Request { prompt, samples: 1, max_tokens: 256, options, stream: 0 })?;

    let mut ids = Vec::new();
    while !engine.is_idle() {
        for event in engine.step() {
            if let Event::Token { id, .. } = event {
                ids.push(id); // as they come; `StreamDecoder` makes whole characters of them
            }
        }
    }
    println!("{}", answer::visible_text(&tokenizer, &ids)); // without the calls of tools
    Ok(())
}
