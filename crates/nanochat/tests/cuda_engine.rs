//! Tests the engine on a GPU: sampled tokens against the CPU's sampler, and answers against the definition, which runs
//! the whole sequence again for every token.

use std::ops::ControlFlow;

use nanochat::engine::sampler::{SampleOptions, Seen, sample};
use nanochat::engine::{Completion, Engine, EngineOptions, Request};
use nanochat::model::batch::Batch;
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat::model::gpt::Rates;
use nanochat::model::optim::{Optimizer, ScheduleValues};
use nanochat::text::language::TextLanguage;
use nanochat::train;
use nanochat::world::{Split, World};
use nanochat_tensor::ops::sample::{Choice, Penalties, choose, log_probabilities};
use nanochat_tensor::{Comm, Device, Rng, Tensor};
use nanochat_tokenizer::{Tokenizer, TrainOptions};

const GREEDY: SampleOptions = SampleOptions::GREEDY;

/// Returns the GPU, or prints that the test was skipped. Panics instead if NANOCHAT_REQUIRE_GPU is set.
fn gpu() -> Option<Device> {
    let device = Device::cuda(0);
    if let Err(error) = &device {
        assert!(std::env::var_os("NANOCHAT_REQUIRE_GPU").is_none(), "{error}");
        println!("skipped: {error}");
    }
    device.ok()
}

/// Returns rows of logits of several kinds: like a model's, with many equal values, all equal, with infinities and NaN.
fn rows_of_logits(v: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::new(&[6, v as u64]);
    let mut normal = |scale: f32| (0..v).map(|_| scale * rng.normal()).collect::<Vec<f32>>();
    let (flat, model, sharp) = (normal(0.01), normal(2.0), normal(8.0));
    let coarse = model.iter().map(|z| z.round()).collect();
    let mut broken = model.clone();
    broken[v / 3] = f32::NAN;
    broken[v / 2] = f32::NEG_INFINITY;
    let mut infinite = broken.clone();
    infinite[v / 4] = f32::INFINITY;
    vec![flat, model, sharp, coarse, vec![0.5; v], broken, infinite, vec![f32::NEG_INFINITY; v]]
}

fn options() -> Vec<SampleOptions> {
    let plain = SampleOptions { temperature: 1.0, ..GREEDY };
    let top_k = |top_k| SampleOptions { top_k, ..plain };
    let top_p = |top_p| SampleOptions { top_p, ..plain };
    vec![
        GREEDY,
        plain,
        SampleOptions { temperature: 0.3, ..plain },
        SampleOptions { temperature: 100.0, ..plain },
        top_k(1),
        top_k(50),
        top_k(200),
        top_k(1_500),
        SampleOptions { temperature: 0.6, min_p: 0.05, ..top_k(50) },
        SampleOptions { top_p: 0.9, ..top_k(50) },
        top_p(0.01),
        top_p(0.5),
        top_p(0.95),
        SampleOptions { min_p: 0.02, ..top_p(0.8) },
        SampleOptions { min_p: 0.1, ..plain },
        SampleOptions { repetition_penalty: 1.3, ..top_k(20) },
        SampleOptions { presence_penalty: 0.7, frequency_penalty: 0.4, ..top_p(0.9) },
        SampleOptions { presence_penalty: 3.0, repetition_penalty: 0.7, ..GREEDY },
    ]
}

/// Whether the CPU samples `id` for some random number in a range, in which each token has one interval. The search
/// begins at the end of the range where the number in question lies: tokens moved by rounding are near it, and a range
/// may hold thousands of unlikely tokens.
fn is_drawn_near(draw: &impl Fn(f64) -> u32, [low, high]: [f64; 2], id: u32, from_above: bool) -> bool {
    let (first, last) = (draw(low), draw(high));
    if first == id || last == id {
        return true;
    }
    let middle = 0.5 * (low + high);
    if first == last || middle <= low || middle >= high {
        return false;
    }
    let mut halves = [[low, middle], [middle, high]];
    if from_above {
        halves.reverse();
    }
    halves.into_iter().any(|half| is_drawn_near(draw, half, id, from_above))
}

/// The tokens are equal unless the random number lies on the edge between two, which rounding may move: then the CPU
/// samples the GPU's token for a number slightly beside it. A sum of float32 exponentials may also end the top-p tokens
/// one earlier or later, which moves all edges by that token's weight: 1.5e-5 if all of 65,536 are equal.
#[test]
fn tokens_chosen_on_the_gpu_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    let mut rng = Rng::new(&[7]);
    let (mut moved, mut total) = (0, 0);
    for v in [5, 301, 4_096, 65_536] {
        let rows = rows_of_logits(v);
        let logits = Tensor::new(rows.concat(), &[rows.len(), v]).to_device(&device);
        let prompt: Vec<u32> = (0..70).map(|_| rng.below(v) as u32).collect();
        let answer: Vec<u32> = (0..300).map(|_| rng.below(v.min(40)) as u32).collect();
        let seen = Seen { prompt: &prompt, answer: &answer };
        let cases: Vec<(usize, SampleOptions, f64)> = (0..rows.len())
            .flat_map(|row| options().into_iter().map(move |options| (row, options)))
            .flat_map(|(row, options)| {
                [0.0, 1.0 - 1e-16, rng.uniform(), rng.uniform()].map(|u| (row, options, u))
            })
            .collect();
        let choice = |&(row, ref o, uniform): &(usize, SampleOptions, f64)| {
            let penalties = Penalties {
                repetition: o.repetition_penalty,
                presence: o.presence_penalty,
                frequency: o.frequency_penalty,
                prompt: &prompt,
                answer: &answer,
            };
            let SampleOptions { temperature, top_k, top_p, min_p, .. } = *o;
            let penalties = ((o.repetition_penalty, o.presence_penalty) != (1.0, 0.0)).then_some(penalties);
            Choice { row, uniform, temperature, top_k, top_p, min_p, penalties }
        };
        let choices: Vec<Choice> = cases.iter().map(choice).collect();
        let ids = choose(&logits, &choices).ids();
        assert_eq!(choose(&logits, &choices).ids(), ids, "another run draws the same");
        for ((row, options, uniform), id) in cases.into_iter().zip(ids) {
            let draw = |uniform: f64| sample(&rows[row], seen, &options, uniform.clamp(0.0, 1.0 - 1e-16)).id;
            let expected = draw(uniform);
            total += 1;
            if id != expected {
                moved += 1;
                assert!(
                    is_drawn_near(&draw, [uniform - 2e-5, uniform], id, true)
                        || is_drawn_near(&draw, [uniform, uniform + 2e-5], id, false),
                    "row {row} of {v}, {options:?}, {uniform}: the CPU takes {expected}, the GPU {id}"
                );
            }
        }
    }
    println!("{moved} of {total} choices on an edge");
    assert!(moved * 50 <= total, "{moved} of {total} choices differ");
}

#[test]
fn log_probabilities_on_the_gpu_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    for v in [5, 301, 65_536] {
        let rows = &rows_of_logits(v)[..6];
        let logits = Tensor::new(rows.concat(), &[rows.len(), v]).to_device(&device);
        for top in [0, 1, 20, 1_000] {
            let choice = |row| Choice {
                row,
                uniform: 0.4,
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                penalties: None,
            };
            let of: Vec<usize> = (0..rows.len()).collect();
            let chosen = choose(&logits, &of.iter().map(|&row| choice(row)).collect::<Vec<_>>());
            let found = log_probabilities(&logits, &of, &chosen, top);
            let options = SampleOptions { temperature: 1.0, logprobs: Some(top), ..GREEDY };
            for ((row, found), id) in rows.iter().zip(found).zip(chosen.ids()) {
                let drawn = sample(row, Seen::default(), &options, 0.4);
                let expected = drawn.logprobs.unwrap();
                if drawn.id == id {
                    assert!(
                        (found.chosen - expected.chosen).abs() < 1e-5,
                        "{} {}",
                        found.chosen,
                        expected.chosen
                    );
                }
                let ids = |top: &[(u32, f32)]| top.iter().map(|(id, _)| *id).collect::<Vec<u32>>();
                assert_eq!(ids(&found.top), ids(&expected.top), "top {top} of {v}");
                for ((_, found), (_, expected)) in found.top.iter().zip(&expected.top) {
                    let same = found == expected || (found - expected).abs() < 1e-5;
                    assert!(same, "{found} {expected}");
                }
            }
        }
    }
}

/// A model of the built-in world, trained for a few seconds: with random weights no answer is certain, and rounding
/// would decide every second token.
struct Trained {
    tokenizer: Tokenizer,
    model: Gpt,
    prompts: Vec<Vec<u32>>,
}

fn trained(device: &Device, n_kv_head: usize, depth: usize) -> Trained {
    let world = World::new(1, "nanochat", TextLanguage::Mix);
    let documents: Vec<String> = (0..1_500).map(|i| world.document(Split::Train, i)).collect();
    let options = TrainOptions { vocab_size: 700, ..TrainOptions::default() };
    let tokenizer = nanochat_tokenizer::train(documents[..300].iter(), &options).unwrap();
    let bos = tokenizer.special("<|bos|>").unwrap();
    let encode = |document: &String| [vec![bos], tokenizer.encode(document)].concat();
    let stream: Vec<u32> = documents.iter().flat_map(encode).collect();
    let config = GptConfig::from_depth(depth, 700, 256).unwrap().with_kv_heads(n_kv_head).unwrap();
    let mut model = Gpt::init(config, 3).to_device(device).unwrap();
    let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(&model, rates, 1.0, &Comm::alone());
    let (b, t) = (16, 256);
    for step in 0..200 {
        let start = step * b * t % (stream.len() - b * t - 1);
        let tokens = |shift: usize| stream[start + shift..][..b * t].to_vec();
        let batch = Batch { inputs: tokens(0), targets: tokens(1), weights: vec![1.0; b * t], shape: [b, t] };
        let scheduled =
            ScheduleValues { lr_multiplier: (1.0 - step as f32 / 200.0).max(0.05), muon_momentum: 0.9 };
        let loss = train::step(&mut model, &mut optimizer, &[batch], scheduled).unwrap().loss;
        if step % 50 == 49 {
            println!("step {step}: loss {loss:.3}");
        }
    }
    let slow = std::env::var("NANOCHAT_SLOW").is_ok_and(|value| value == "1");
    let mut rng = Rng::new(&[9]);
    let mut prompt = |i: u64| {
        let mut ids = encode(&world.document(Split::Test, i));
        ids.truncate(1 + rng.below(200));
        ids
    };
    let prompts = (0..if slow { 500 } else { 60 }).map(&mut prompt).collect();
    Trained { tokenizer, model, prompts }
}

fn generate(engine: &mut Engine, requests: &[Request]) -> Vec<Vec<Completion>> {
    engine.generate(requests, |_| ControlFlow::Continue(()))
}

fn request(prompt: &[u32], max_tokens: usize, options: SampleOptions) -> Request {
    Request { prompt: prompt.to_vec(), samples: 1, max_tokens, options, stream: 0 }
}

/// Asserts that where an answer departs from the plain forward's likeliest tokens, the two likeliest are closer than
/// 0.05. Returns whether there is such a place.
#[track_caller]
fn leaves(model: &Gpt, prompt: &[u32], answer: &[u32]) -> bool {
    let ids = [prompt, answer].concat();
    let logits = model.logits(&ids, [1, ids.len()]);
    for (row, &id) in logits.data().chunks_exact(logits.cols()).skip(prompt.len() - 1).zip(answer) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.select_nth_unstable_by(1, |&a, &b| row[b].total_cmp(&row[a]));
        let likeliest = if row[order[0]] >= row[order[1]] { order[0] } else { order[1] };
        if likeliest as u32 != id {
            let gap = (row[order[0]] - row[order[1]]).abs();
            assert!(gap < 0.05, "the engine took {id} though {likeliest} is ahead by {gap}");
            return true;
        }
    }
    false
}

/// The slow tier uses 500 prompts. Rows of many lengths join, prompts are cut into chunks, a small cache makes rows
/// wait, and prefixes are found again; heads have 64 and 128 values, with shared key heads.
#[test]
fn greedy_answers_on_the_gpu_are_those_of_the_plain_forward() {
    let Some(device) = gpu() else { return };
    for (depth, n_kv_head) in [(4, 1), (1, 1)] {
        let Trained { tokenizer, model, prompts } = trained(&device, n_kv_head, depth);
        let requests: Vec<Request> = prompts.iter().map(|prompt| request(prompt, 24, GREEDY)).collect();
        let page = 2 * model.config.n_layer * model.config.kv_dim() * 64 * 2;
        for (prefix_cache, max_rows, prompt_tokens, pages) in
            [(true, 64, 8_192, 4_000), (false, 1, 8_192, 4_000), (true, 7, 50, 12), (true, 33, 300, 60)]
        {
            let options = EngineOptions {
                prefix_cache,
                max_rows,
                prompt_tokens,
                cache_bytes: pages * page,
                ..EngineOptions::for_batch(&device, 64)
            };
            let mut engine = Engine::with_options(&model, Some(&tokenizer), options);
            let answers = generate(&mut engine, &requests);
            let flips = requests
                .iter()
                .zip(&answers)
                .filter(|(request, answers)| leaves(&model, &request.prompt, &answers[0].ids))
                .count();
            let tokens: usize = answers.iter().map(|answers| answers[0].ids.len()).sum();
            println!(
                "d{depth}, {options:?}: {flips} of {} answers left at a near tie, {tokens} tokens",
                answers.len()
            );
            assert_eq!(engine.stats().pages_in_use, 0);
            assert!(flips * 4 <= answers.len(), "{flips} of {} left", answers.len());
        }
    }
}

/// Samples of one prompt share its pages and are sampled independently; a stream repeats its samples; log-probabilities
/// and scores equal those of the plain forward.
#[test]
fn samples_repeat_and_their_log_probabilities_are_the_models() {
    let Some(device) = gpu() else { return };
    let Trained { tokenizer, model, prompts } = trained(&device, 1, 4);
    let options = SampleOptions { temperature: 1.0, logprobs: Some(3), seed: 5, ..GREEDY };
    let requests: Vec<Request> =
        prompts.iter().take(6).map(|prompt| Request { samples: 9, ..request(prompt, 20, options) }).collect();
    let mut engine = Engine::with_options(&model, Some(&tokenizer), EngineOptions::for_batch(&device, 64));
    let answers = generate(&mut engine, &requests);
    assert_eq!(generate(&mut engine, &requests[..1])[0].len(), 9);
    let mut different = 0;
    for (request, samples) in requests.iter().zip(&answers) {
        different += samples.iter().filter(|sample| sample.ids != samples[0].ids).count();
        for sample in samples {
            let ids = [&request.prompt[..], &sample.ids].concat();
            let scores = engine.score(&ids, 3).unwrap();
            let of_answer = &scores[request.prompt.len() - 1..];
            for (i, (drawn, score)) in
                sample.logprobs.iter().zip(of_answer).enumerate().take(sample.ids.len())
            {
                let difference = (drawn.chosen - score.chosen).abs();
                assert!(difference < 0.1, "token {i}: {} drawn, {} scored", drawn.chosen, score.chosen);
            }
            let logits = model.logits(&ids, [1, ids.len()]);
            for ((row, &id), score) in logits.data().chunks_exact(logits.cols()).zip(&ids[1..]).zip(&scores) {
                let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
                let expected = f64::from(row[id as usize]) - sum.ln();
                assert!((expected - f64::from(score.chosen)).abs() < 0.1, "{expected} {}", score.chosen);
            }
        }
    }
    assert!(different > 30, "{different} of 48 samples differ from the first");
}

/// An engine that gets a trained model's new weights answers like an engine made from it.
#[test]
fn refreshed_weights_are_the_models_own() {
    let Some(device) = gpu() else { return };
    let Trained { tokenizer, model, prompts } = trained(&device, 1, 2);
    let fresh = Gpt::init(model.config, 8).to_device(&device).unwrap();
    let requests: Vec<Request> = prompts[..8].iter().map(|prompt| request(prompt, 12, GREEDY)).collect();
    let mut engine = Engine::with_options(&fresh, Some(&tokenizer), EngineOptions::for_batch(&device, 8));
    let of_fresh = generate(&mut engine, &requests);
    engine.refresh(&model);
    let refreshed = generate(&mut engine, &requests);
    let mut engine = Engine::with_options(&model, Some(&tokenizer), EngineOptions::for_batch(&device, 8));
    assert_eq!(refreshed, generate(&mut engine, &requests));
    assert_ne!(refreshed, of_fresh);
}
