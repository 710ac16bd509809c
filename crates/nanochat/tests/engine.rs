//! Compares generation with its definition: run the whole sequence again for every token.

use std::ops::ControlFlow;

use nanochat::engine::sampler::{SampleOptions, Seen, sample};
use nanochat::engine::{Completion, Engine, EngineOptions, Finish, Request};
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat_tensor::{Dtype, Rng, Tensor};
use nanochat_tokenizer::{Tokenizer, TrainOptions, train};

const GREEDY: SampleOptions = SampleOptions::GREEDY;

/// Returns a tokenizer of bytes and the nine special tokens: 265 in all.
fn byte_tokenizer() -> Tokenizer {
    train(["a"].iter(), &TrainOptions { vocab_size: 265, ..TrainOptions::default() }).unwrap()
}

/// Returns a model of two layers with random weights, grouped queries and 265 tokens.
fn random_model(sequence_len: usize) -> Gpt {
    let config = GptConfig {
        sequence_len,
        vocab_size: 265,
        n_layer: 2,
        n_head: 4,
        n_kv_head: 2,
        n_embd: 32,
        ..GptConfig::from_depth(1, 265, 8).unwrap()
    };
    let mut stream = 0;
    let weight = |_: &str, shape: &[usize]| {
        stream += 1;
        let mut rng = Rng::new(&[11, stream]);
        let std = if shape[0] == 265 { 1.0 } else { 0.3 };
        Ok::<_, ()>(Tensor::new((0..shape.iter().product()).map(|_| std * rng.normal()).collect(), shape))
    };
    Gpt::from_weights(config, weight).unwrap()
}

/// Returns a model in which each token determines the next one: one-hot embeddings, empty blocks.
fn chain_model(follows: impl Fn(usize) -> usize) -> Gpt {
    let (v, c) = (265, 320);
    let config = GptConfig {
        sequence_len: 128,
        vocab_size: v,
        n_layer: 1,
        n_head: 1,
        n_kv_head: 1,
        n_embd: c,
        ..GptConfig::from_depth(1, 265, 8).unwrap()
    };
    let weight = |name: &str, shape: &[usize]| {
        let mut data = vec![0.0; shape.iter().product()];
        for id in 0..v {
            match name {
                "transformer.wte.weight" => data[id * c + id] = 1.0,
                "lm_head.weight" => data[follows(id) * c + id] = 1.0,
                _ => {}
            }
        }
        Ok::<_, ()>(Tensor::new(data, shape))
    };
    Gpt::from_weights(config, weight).unwrap()
}

fn request(prompt: &[u32], max_tokens: usize, options: SampleOptions) -> Request {
    Request { prompt: prompt.to_vec(), samples: 1, max_tokens, options, stream: 0 }
}

fn generate(model: &Gpt, requests: &[Request]) -> Vec<Vec<Completion>> {
    let tokenizer = byte_tokenizer();
    Engine::new(model, &tokenizer).generate(requests, |_| ControlFlow::Continue(()))
}

fn naive(model: &Gpt, request: &Request, sample_index: u64) -> Vec<u32> {
    let stops = [256, 260]; // <|bos|> and <|assistant_end|>
    let mut rng = Rng::new(&[request.options.seed, request.stream, sample_index]);
    let mut ids = request.prompt.clone();
    while ids.len() < request.prompt.len() + request.max_tokens && ids.len() < model.config.sequence_len {
        let logits = model.logits(&ids, [1, ids.len()]);
        let last = &logits.data()[(ids.len() - 1) * 265..];
        let seen = Seen { prompt: &request.prompt, answer: &ids[request.prompt.len()..] };
        let id = sample(last, seen, &request.options, rng.uniform()).id;
        if stops.contains(&id) {
            break;
        }
        ids.push(id);
    }
    ids[request.prompt.len()..].to_vec()
}

fn random_prompt(rng: &mut Rng) -> Vec<u32> {
    (0..1 + rng.below(150)).map(|_| rng.below(256) as u32).collect()
}

/// Returns prompts of which every other shares a prefix with an earlier one, up to all of it.
fn related_prompts(n: usize, rng: &mut Rng) -> Vec<Vec<u32>> {
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    for i in 0..n {
        let mut prompt = if i % 2 == 0 { Vec::new() } else { rng.choose(&prompts).clone() };
        prompt.truncate(rng.below(prompt.len() + 1));
        prompt.extend(random_prompt(rng));
        prompt.truncate(230);
        prompts.push(prompt);
    }
    prompts
}

/// The slow tier uses 500 prompts.
#[test]
fn greedy_answers_equal_the_naive_forward_in_any_mix_of_requests() {
    let slow = std::env::var("NANOCHAT_SLOW").is_ok_and(|value| value == "1");
    let (model, tokenizer, mut rng) = (random_model(256), byte_tokenizer(), Rng::new(&[1]));
    let prompts = related_prompts(if slow { 500 } else { 60 }, &mut rng);
    let requests: Vec<Request> =
        prompts.iter().map(|prompt| request(prompt, 1 + rng.below(20), GREEDY)).collect();
    let expected: Vec<Vec<u32>> = requests.iter().map(|request| naive(&model, request, 0)).collect();
    let small = 12 * 2 * 2 * 16 * 64 * 4; // bytes of 12 pages: rows must wait and make room
    for (prefix_cache, max_rows, prompt_tokens, cache_bytes) in
        [(true, 64, 256, 1 << 30), (false, 7, 50, 1 << 30), (true, 7, 64, small), (false, 16, 1_000, small)]
    {
        let options =
            EngineOptions { prefix_cache, max_rows, prompt_tokens, cache_bytes, ..Default::default() };
        let mut engine = Engine::with_options(&model, Some(&tokenizer), options);
        let answers = engine.generate(&requests, |_| ControlFlow::Continue(()));
        for ((request, answers), expected) in requests.iter().zip(&answers).zip(&expected) {
            assert_eq!(&answers[0].ids, expected, "prompt of {} with {options:?}", request.prompt.len());
        }
        let stats = engine.stats();
        assert_eq!((stats.cache_hit_tokens > 0, stats.pages_in_use), (prefix_cache, 0));
        assert!(!slow || (stats.preemptions > 0) == (cache_bytes == small), "{stats:?}");
    }
}

/// Tokens and log-probabilities are equal to the last bit, in every precision.
#[test]
fn neighbours_chunks_and_interruptions_change_no_bit() {
    let (model, tokenizer, mut rng) = (random_model(256), byte_tokenizer(), Rng::new(&[3]));
    let sampled = SampleOptions { temperature: 1.0, logprobs: Some(3), ..GREEDY };
    let requests: Vec<Request> = (0..)
        .zip(related_prompts(24, &mut rng))
        .map(|(stream, prompt)| Request {
            stream,
            samples: 1 + stream as usize % 3,
            ..request(&prompt, 12, sampled)
        })
        .collect();
    for weights in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
        let run = |requests: &[Request], options: EngineOptions| {
            let options = EngineOptions { weights, ..options };
            let mut engine = Engine::with_options(&model, Some(&tokenizer), options);
            engine.generate(requests, |_| ControlFlow::Continue(()))
        };
        let together = run(&requests, EngineOptions::default());
        let cramped = EngineOptions { max_rows: 5, prompt_tokens: 37, cache_bytes: 0, ..Default::default() };
        assert_eq!(run(&requests, cramped), together);
        for (request, together) in requests.iter().zip(&together) {
            let alone = EngineOptions { prefix_cache: false, ..Default::default() };
            assert_eq!(&run(std::slice::from_ref(request), alone)[0], together);
        }
    }
}

#[test]
fn sampled_answers_follow_their_own_stream_whatever_the_batch() {
    let (model, mut rng) = (random_model(256), Rng::new(&[2]));
    let options = SampleOptions { temperature: 0.9, top_k: 20, seed: 5, ..GREEDY };
    let requests: Vec<Request> = (0..12)
        .map(|stream| Request { samples: 5, stream, ..request(&random_prompt(&mut rng), 12, options) })
        .collect();
    let together = generate(&model, &requests);
    for (request, answers) in requests.iter().zip(&together) {
        assert_eq!(&generate(&model, std::slice::from_ref(request))[0], answers);
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ids, naive(&model, request, i as u64));
        }
        assert!(answers.iter().any(|answer| answer.ids != answers[0].ids), "samples draw on their own");
    }
    let firsts: std::collections::HashSet<u32> =
        together[0].iter().filter_map(|a| a.ids.first().copied()).collect();
    assert!(firsts.len() > 1, "each sample draws its own first token");
}

#[test]
fn a_python_block_is_answered_by_the_calculator() {
    let tokenizer = byte_tokenizer();
    let special = |name: &str| tokenizer.special(name).unwrap() as usize;
    let (start, end) = (special("<|python_start|>"), special("<|python_end|>"));
    let (output_end, stop) = (special("<|output_end|>"), special("<|assistant_end|>"));
    // x -> python_start 6 * 7 python_end, and after the forced output the answer ends.
    let chain = ["x", "6", "*", "7"].map(|c| c.as_bytes()[0] as usize);
    let follows = |id: usize| match id {
        _ if id == chain[0] => start,
        _ if id == start => chain[1],
        _ if id == chain[1] => chain[2],
        _ if id == chain[2] => chain[3],
        _ if id == chain[3] => end,
        _ if id == output_end => stop,
        _ => b'!' as usize,
    };
    let answer = &generate(&chain_model(follows), &[request(&[b'x' as u32], 40, GREEDY)])[0][0];
    assert_eq!(answer.finish, Finish::Stop);
    let text = tokenizer.decode(&answer.ids);
    assert_eq!(text, "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>");
    assert_eq!(answer.forced.iter().filter(|forced| **forced).count(), 4);
    assert_eq!(answer.forced.len(), answer.ids.len());
}

#[test]
fn a_refused_expression_is_not_answered() {
    let tokenizer = byte_tokenizer();
    let special = |name: &str| tokenizer.special(name).unwrap() as usize;
    let (start, end) = (special("<|python_start|>"), special("<|python_end|>"));
    let follows = |id: usize| match id {
        120 => start,
        _ if id == start => b'/' as usize,
        47 => end,
        _ => b'!' as usize,
    };
    let answer = &generate(&chain_model(follows), &[request(&[120], 6, GREEDY)])[0][0];
    assert_eq!(tokenizer.decode(&answer.ids), "<|python_start|>/<|python_end|>!!!");
    assert!(answer.forced.iter().all(|forced| !forced));
}

#[test]
fn rows_end_at_the_context_at_their_limit_and_when_told() {
    let model = chain_model(|_| b'!' as usize);
    let finishes = generate(
        &model,
        &[
            request(&[1; 120], 50, GREEDY),
            request(&[1], 3, GREEDY),
            request(&[1; 128], 5, GREEDY),
            request(&[1], 0, GREEDY),
        ],
    );
    let lengths: Vec<usize> = finishes.iter().map(|answers| answers[0].ids.len()).collect();
    assert_eq!(lengths, [8, 3, 0, 0]);
    assert!(finishes.iter().all(|answers| answers[0].finish == Finish::Length));

    let tokenizer = byte_tokenizer();
    let mut seen = 0;
    let answers = Engine::new(&model, &tokenizer).generate(&[request(&[1], 50, GREEDY)], |_| {
        seen += 1;
        if seen == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((answers[0][0].finish, answers[0][0].ids.len()), (Finish::Cancelled, 4));
}
