//! Reads questions with checkable answers, and samples the model's answers to them.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use nanochat_tensor::{Comm, PAGE};
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::chat::mixture::Mixture;
use crate::conversation::Role;
use crate::conversation::answer;
use crate::engine::sampler::SampleOptions;
use crate::engine::{Completion, Engine, EngineOptions, Request};
use crate::model::batch::Row;
use crate::model::gpt::Gpt;
use crate::ranks::Shares;

/// A question with the prompt that the model gets.
pub struct Problem<'m> {
    /// The user's last message.
    pub question: String,
    pub prompt: Vec<u32>,
    /// The mixture that grades answers, and the question's number in it.
    mixture: &'m Mixture,
    item: usize,
}

/// Returns all problems of a mixture whose prompts leave room for `max_new_tokens`, and the number of those that do
/// not. Fails if an answer cannot be rewarded or no prompt leaves room.
pub fn read_problems<'m>(
    mixture: &'m Mixture,
    tokenizer: &Tokenizer,
    context: usize,
    max_new_tokens: usize,
) -> Result<(Vec<Problem<'m>>, usize)> {
    let mut problems = Vec::with_capacity(mixture.len());
    for i in 0..mixture.len() {
        let conversation = mixture.get(i)?.conversation;
        let asked = conversation.messages.iter().rfind(|message| message.role == Role::User);
        let question = asked.map(|message| message.content.text()).unwrap_or_default();
        if mixture.reward(i, "")?.is_none() {
            let question: String = question.chars().take(60).collect();
            bail!(
                "the answer to \"{question}\" has no #### with a number after it, which is what is rewarded"
            );
        };
        let prompt = conversation.render_for_completion(tokenizer)?;
        if prompt.len() + max_new_tokens <= context {
            problems.push(Problem { question, prompt, mixture, item: i });
        }
    }
    let left_out = mixture.len() - problems.len();
    if problems.is_empty() && !mixture.is_empty() {
        bail!(
            "no question, of {left_out} in all, leaves room for {max_new_tokens} tokens of answer in the model's {context}; lower --max-new-tokens"
        );
    }
    Ok((problems, left_out))
}

/// One sampled answer.
#[derive(Serialize, Deserialize)]
pub struct Rollout {
    pub row: Row,
    /// Marks, for each token of the row, whether the model chose it; only these are trained.
    pub sampled: Vec<bool>,
    pub text: String,
    pub reward: f32,
}

/// The options for sampling answers.
#[derive(Clone, Copy)]
pub struct Sampling {
    pub samples: usize,
    pub max_new_tokens: usize,
    pub options: SampleOptions,
}

/// Samples answers to `problems` as `[problem][sample]`, each problem on the rank that owns it. The random stream of a
/// problem is `stream` plus its number.
pub fn roll_out(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    problems: &[&Problem],
    sampling: Sampling,
    stream: u64,
    comm: &Comm,
) -> Result<Vec<Vec<Rollout>>> {
    let Sampling { samples, max_new_tokens: max_tokens, options } = sampling;
    let shares = Shares::by_size(comm, problems.iter().map(|problem| problem.prompt.len()));
    let request = |i: usize| {
        let prompt = problems[i].prompt.clone();
        Request { prompt, samples, max_tokens, options, stream: stream + i as u64 }
    };
    let requests: Vec<Request> = shares.mine().map(request).collect();
    let answers = engine.generate(&requests, |_| ControlFlow::Continue(()));
    let rollout = |problem: &Problem, completion: Completion| {
        let text = answer::visible_text(tokenizer, &completion.ids);
        let reward = problem.mixture.reward(problem.item, &text)?.unwrap_or(0.0);
        let mut ids = [problem.prompt.as_slice(), &completion.ids].concat();
        let mut sampled = vec![false; problem.prompt.len()];
        sampled.extend(completion.forced.iter().map(|forced| !forced));
        // The model also chose the token that stops the answer, so it is learned like any other choice.
        ids.extend(completion.stop);
        sampled.extend(completion.stop.map(|_| true));
        Ok(Rollout { row: Row { weights: vec![0.0; ids.len()], ids }, sampled, text, reward })
    };
    let group = |(i, group): (usize, Vec<Completion>)| {
        group.into_iter().map(|completion| rollout(problems[i], completion)).collect()
    };
    let groups = shares.mine().zip(answers).map(group).collect::<Result<Vec<Vec<Rollout>>>>()?;
    Ok(shares.gather(comm, groups))
}

/// Makes an engine for `answers` answers at a time, each with its question at most `longest` tokens long. A device with
/// its own memory allocates the cache at once, and no larger than the answers can fill, since training needs the rest.
pub fn engine<'t>(
    model: &Gpt,
    tokenizer: Option<&'t Tokenizer>,
    answers: usize,
    longest: usize,
) -> Engine<'t> {
    let device = model.device();
    let options = EngineOptions::for_batch(&device, answers);
    let properties = device.properties();
    if !properties.own_memory {
        return Engine::with_options(model, tokenizer, options);
    }
    let token_bytes = 2 * properties.activations.bytes() * model.config.n_layer * model.config.kv_dim();
    let cache_bytes = options.max_rows * longest.next_multiple_of(PAGE) * token_bytes;
    Engine::with_options(model, tokenizer, EngineOptions { cache_bytes, ..options })
}

/// Returns the probability that at least one of k answers drawn from n is right, if c of the n are: 1 − C(n−c, k) /
/// C(n, k) (Chen et al. 2021).
pub fn pass_at(k: usize, c: usize, n: usize) -> f64 {
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::mixture::{Conversations, MixtureError};
    use crate::conversation::{Conversation, from_json};
    use crate::files::file_error::FileError;
    use crate::model::config::GptConfig;
    use crate::testing::tokenizer;
    use crate::train::stages::rl::weighted_by_advantage;

    /// A set of one question, whose right answers have an even number of characters.
    struct Even;

    impl Conversations for Even {
        fn len(&self) -> usize {
            1
        }

        fn get(&self, _: usize) -> Result<Conversation, FileError> {
            let messages = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]"#;
            Ok(from_json(serde_json::from_str(messages).unwrap()).unwrap())
        }

        fn grade(&self, _: usize, answer: &str) -> Result<Option<bool>, MixtureError> {
            Ok(Some(answer.chars().count().is_multiple_of(2)))
        }
    }

    /// Makes a model that after any token says `often` with a probability of a third, `never` almost never, and all
    /// others with equal probability.
    fn model(often: u32, never: u32) -> Gpt {
        let mut model = Gpt::init(GptConfig::from_depth(1, 265, 96).unwrap(), 0);
        let c = model.config.n_embd;
        for (name, _, weight) in model.params_mut() {
            match name.as_str() {
                "transformer.wte.weight" => weight.data_mut().fill(1.0),
                "lm_head.weight" => {
                    let row = |id: u32| id as usize * c..(id as usize + 1) * c;
                    weight.data_mut()[row(often)].fill(5.0 / c as f32);
                    weight.data_mut()[row(never)].fill(-1.0);
                }
                _ => {}
            }
        }
        model
    }

    #[test]
    fn the_end_that_is_learned_is_the_one_that_was_drawn() {
        let tokenizer = tokenizer();
        let ends = ["<|bos|>", "<|assistant_end|>"].map(|name| tokenizer.special(name).unwrap());
        let mixture = Mixture::of(Even);
        let (problems, _) = read_problems(&mixture, &tokenizer, 96, 8).unwrap();
        let options = SampleOptions { temperature: 1.0, top_k: 0, ..SampleOptions::default() };
        let sampling = Sampling { samples: 64, max_new_tokens: 8, options };
        for [drawn, other] in [ends, [ends[1], ends[0]]] {
            let model = model(drawn, other);
            let mut engine = engine(&model, Some(&tokenizer), 64, 96);
            let asked: Vec<&Problem> = problems.iter().collect();
            let groups = roll_out(&mut engine, &tokenizer, &asked, sampling, 0, &Comm::alone()).unwrap();
            let prompt = problems[0].prompt.len();
            let stopped = |answer: &&Rollout| answer.row.ids.len() < prompt + 8;
            let n = groups[0].iter().filter(stopped).count();
            assert!(n > 32, "{n} of 64 answers are at their end before they are cut");
            for answer in weighted_by_advantage(groups, false).iter().filter(stopped) {
                let ids = &answer.row.ids[prompt..];
                assert_eq!(ids.last(), Some(&drawn), "{ids:?}");
                assert!(!ids.contains(&other) && ids.iter().filter(|id| **id == drawn).count() == 1);
                assert!(answer.sampled.last() == Some(&true) && answer.row.weights.last() != Some(&0.0));
            }
        }
    }

    #[test]
    fn pass_at_k_counts_the_draws_with_a_right_answer() {
        assert_eq!((pass_at(1, 0, 8), pass_at(8, 1, 8), pass_at(1, 8, 8)), (0.0, 1.0, 1.0));
        assert!((pass_at(1, 3, 8) - 3.0 / 8.0).abs() < 1e-12);
        // Five answers, two of them right, make 10 pairs; 3 of the pairs have no right one.
        assert!((pass_at(2, 2, 5) - 0.7).abs() < 1e-12);
    }
}
