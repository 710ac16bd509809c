//! Chooses the next token from its logits: penalties, top-k, temperature, min-p (Nguyen et al. 2024), top-p (Holtzman
//! et al. 2020), in this order.
//!
//! Penalties: repetition (Keskar et al. 2019) over prompt and answer; presence and frequency as in OpenAI's API, over
//! the answer: logit − presence · (count > 0) − frequency · count.

use nanochat_tensor::simd;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

use crate::terminal::flag_values;

/// The options for choosing the next token. The defaults are those of the terminal chat.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleOptions {
    /// Randomness: 0 always takes the likeliest token, 1 the model's own distribution
    #[arg(long, value_parser = flag_values::temperature, default_value_t = SampleOptions::default().temperature)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens only; 0 turns this off
    #[arg(long, value_parser = flag_values::amount, default_value_t = SampleOptions::default().top_k)]
    pub top_k: usize,
    /// Choose among the fewest tokens whose probabilities add up to P; 1 turns this off
    #[arg(long, value_parser = flag_values::any, default_value_t = SampleOptions::default().top_p)]
    pub top_p: f32,
    /// Leave out tokens less likely than P times the likeliest; 0 turns this off
    #[arg(long, value_parser = flag_values::any, default_value_t = SampleOptions::default().min_p)]
    pub min_p: f32,
    /// Make tokens that were already used less likely, by this factor; 1 turns this off
    #[arg(long, value_parser = flag_values::any, default_value_t = SampleOptions::default().repetition_penalty)]
    pub repetition_penalty: f32,
    /// Lower the logits of tokens that the answer already has; 0 turns this off
    #[arg(long, value_parser = flag_values::any, default_value_t = SampleOptions::default().presence_penalty)]
    pub presence_penalty: f32,
    /// Lower the logits of tokens for every time that the answer has them; 0 turns this off
    #[arg(long, value_parser = flag_values::any, default_value_t = SampleOptions::default().frequency_penalty)]
    pub frequency_penalty: f32,
    /// Seed of the random choices
    #[arg(long, value_parser = flag_values::seed, default_value_t = SampleOptions::default().seed)]
    pub seed: u64,
    /// The number of likeliest tokens whose log-probabilities are returned with the chosen token's; None: none at all.
    #[arg(skip)]
    pub logprobs: Option<usize>,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions {
            temperature: 0.6,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 42,
            logprobs: None,
        }
    }
}

/// The error of an option whose value is not allowed.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{option} must be {allowed}, found {found}")]
pub struct OptionError {
    pub option: &'static str,
    pub allowed: &'static str,
    pub found: f32,
}

impl SampleOptions {
    /// The options that always choose the model's likeliest token.
    pub const GREEDY: SampleOptions = SampleOptions {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
        logprobs: None,
    };

    /// Returns the options unchanged, or an error if a value is out of range or NaN.
    pub fn checked(self) -> Result<SampleOptions, OptionError> {
        let check = |option, found: f32, fits: bool, allowed| match fits {
            true => Ok(()),
            false => Err(OptionError { option, allowed, found }),
        };
        check("temperature", self.temperature, (0.0..=2.0).contains(&self.temperature), "0 to 2")?;
        check("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        check("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let penalty = self.repetition_penalty;
        check("repetition penalty", penalty, (0.01..=100.0).contains(&penalty), "0.01 to 100")?;
        for (name, penalty) in
            [("presence penalty", self.presence_penalty), ("frequency penalty", self.frequency_penalty)]
        {
            check(name, penalty, (-100.0..=100.0).contains(&penalty), "-100 to 100")?;
        }
        Ok(self)
    }
}

/// The tokens of a row so far, on which the penalties depend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    pub prompt: &'a [u32],
    pub answer: &'a [u32],
}

/// A chosen token, with log-probabilities if they were requested.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub id: u32,
    pub logprobs: Option<Logprobs>,
}

/// The log-probabilities (natural logarithms) of tokens under the model itself, before penalties and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The log-probability of the chosen token.
    pub chosen: f32,
    /// The likeliest tokens with their log-probabilities, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// A token that may be drawn, with its logit and then its weight (unnormalised probability).
#[derive(Clone, Copy)]
struct Candidate {
    token: u32,
    weight: f32,
}

/// Likeliest first; of equals the smaller id first, so that every choice can be repeated.
fn likeliest_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// Draws the next token from `logits` (V); `uniform` is the random number in [0, 1) that decides. A logit that is NaN
/// counts as minus infinity.
pub fn sample(logits: &[f32], seen: Seen, options: &SampleOptions, uniform: f64) -> Drawn {
    assert!(!logits.is_empty(), "sample needs at least one logit");
    let penalized = penalized(logits, seen, options);
    let id = choose(penalized.as_deref().unwrap_or(logits), options, uniform);
    let logprobs = options.logprobs.map(|top| log_probabilities(logits, id, top));
    Drawn { id, logprobs }
}

fn choose(logits: &[f32], options: &SampleOptions, uniform: f64) -> u32 {
    let highest = simd::vectorized!(simd::max(logits));
    if options.temperature <= 0.0 || options.temperature.is_nan() || highest == f32::NEG_INFINITY {
        return logits.iter().position(|&logit| logit == highest).unwrap_or(0) as u32;
    }
    let highest = highest.min(f32::MAX);
    let mut candidates = match options.top_k {
        k if (1..logits.len()).contains(&k) => likeliest(logits, k),
        _ => (0..).zip(logits).map(|(token, &weight)| Candidate { token, weight }).collect(),
    };
    for candidate in &mut candidates {
        let logit =
            if candidate.weight.is_nan() { f32::NEG_INFINITY } else { candidate.weight.min(f32::MAX) };
        candidate.weight = ((logit - highest) / options.temperature).exp();
    }
    if options.min_p > 0.0 {
        candidates.retain(|candidate| candidate.weight >= options.min_p); // the likeliest weighs 1
    }
    if options.top_p < 1.0 {
        keep_nucleus(&mut candidates, options.top_p);
    }
    draw(&candidates, uniform)
}

/// The logits after the penalties; None where there are none.
fn penalized(logits: &[f32], seen: Seen, options: &SampleOptions) -> Option<Vec<f32>> {
    let SampleOptions { repetition_penalty, presence_penalty, frequency_penalty, .. } = *options;
    if (repetition_penalty, presence_penalty, frequency_penalty) == (1.0, 0.0, 0.0) {
        return None;
    }
    let mut logits = logits.to_vec();
    let mut change = |token: u32, change: &dyn Fn(f32) -> f32| {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = change(*logit);
        }
    };
    if repetition_penalty != 1.0 {
        let mut used = [seen.prompt, seen.answer].concat();
        used.sort_unstable();
        used.dedup();
        for token in used {
            let penalize = |z: f32| if z > 0.0 { z / repetition_penalty } else { z * repetition_penalty };
            change(token, &penalize);
        }
    }
    let mut said = seen.answer.to_vec();
    said.sort_unstable();
    for tokens in said.chunk_by(|a, b| a == b) {
        let penalty = presence_penalty + frequency_penalty * tokens.len() as f32;
        change(tokens[0], &|z| z - penalty);
    }
    Some(logits)
}

/// The `k` likeliest tokens, in order. Of 65,536 tokens a partial sort takes as long as a small model's forward pass,
/// but hardly any token passes the best `k` of those before it: most blocks are skipped by their largest value.
fn likeliest(logits: &[f32], k: usize) -> Vec<Candidate> {
    const BLOCK: usize = 128;
    let (most, mut passes) = (4 * k.max(64), f32::NEG_INFINITY);
    let mut found: Vec<Candidate> = Vec::with_capacity(most + BLOCK);
    let shrink = |found: &mut Vec<Candidate>| {
        let some = k.min(found.len());
        sort_head(found, some);
        found.truncate(k);
        found.last().filter(|_| found.len() == k).map_or(f32::NEG_INFINITY, |last| last.weight)
    };
    simd::vectorized!(for (i, block) in logits.chunks(BLOCK).enumerate() {
        // Until k are found even minus infinity counts.
        if simd::max(block) > passes || passes == f32::NEG_INFINITY {
            let candidates = (i * BLOCK..).zip(block);
            found.extend(candidates.filter(|(_, z)| **z > passes || passes == f32::NEG_INFINITY).map(
                |(token, &z)| {
                    let weight = if z.is_nan() { f32::NEG_INFINITY } else { z };
                    Candidate { token: token as u32, weight }
                },
            ));
        }
        if found.len() > most {
            passes = shrink(&mut found);
        }
    });
    shrink(&mut found);
    found
}

/// Returns the log-probabilities of `chosen` and of the `top` likeliest tokens, from `logits` (V).
pub(crate) fn log_probabilities(logits: &[f32], chosen: u32, top: usize) -> Logprobs {
    let highest = simd::max(logits).min(f32::MAX);
    let exp = |z: &f32| if z.is_nan() { 0.0 } else { f64::from(simd::exp(z - highest)) };
    let log_sum = highest + logits.iter().map(exp).sum::<f64>().ln() as f32;
    let likeliest = if top == 0 { Vec::new() } else { likeliest(logits, top.min(logits.len())) };
    let top = likeliest.into_iter().map(|c| (c.token, c.weight - log_sum)).collect();
    Logprobs { chosen: logits[chosen as usize] - log_sum, top }
}

/// Brings the `k` likeliest candidates to the front, in order. Only these are sorted: of 65,536 tokens a
/// full sort takes milliseconds, as long as a small model's whole forward pass.
fn sort_head(candidates: &mut [Candidate], k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, likeliest_first);
    }
    candidates[..k].sort_unstable_by(likeliest_first);
}

/// The fewest candidates, likeliest first, whose share of all weights reaches `p`; at least one.
fn keep_nucleus(candidates: &mut Vec<Candidate>, p: f32) {
    let enough = f64::from(p) * candidates.iter().map(|c| f64::from(c.weight)).sum::<f64>();
    let mut sorted = candidates.len().min(64); // most nuclei are small; if not, four times as many
    loop {
        sort_head(candidates, sorted);
        let mut sum = 0.0;
        let last = candidates[..sorted].iter().position(|candidate| {
            sum += f64::from(candidate.weight);
            sum >= enough
        });
        match last {
            Some(last) => return candidates.truncate(last + 1),
            None if sorted == candidates.len() => return,
            None => sorted = candidates.len().min(4 * sorted),
        }
    }
}

/// One candidate, with the probability of its share of all weights.
fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = uniform * total;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return candidate.token;
        }
    }
    // Rounding may leave a last crumb; a candidate of weight 0 must not get it.
    candidates.iter().rfind(|c| c.weight > 0.0).unwrap_or(&candidates[0]).token
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanochat_tensor::Rng;

    fn plain() -> SampleOptions {
        SampleOptions { temperature: 1.0, top_k: 0, ..SampleOptions::default() }
    }

    fn id(logits: &[f32], options: &SampleOptions, uniform: f64) -> u32 {
        sample(logits, Seen::default(), options, uniform).id
    }

    /// How often each token is drawn in `n` draws.
    fn counts(logits: &[f32], options: &SampleOptions, n: usize) -> Vec<usize> {
        let (mut rng, mut counts) = (Rng::new(&[5]), vec![0; logits.len()]);
        (0..n).for_each(|_| counts[id(logits, options, rng.uniform()) as usize] += 1);
        counts
    }

    /// Pearson's statistic of drawing 20,000 times against `expected` probabilities.
    #[track_caller]
    fn check_distribution(logits: &[f32], options: &SampleOptions, expected: &[f64]) {
        let n = 20_000;
        let found = counts(logits, options, n);
        let mut chi_square = 0.0;
        for (&count, &p) in found.iter().zip(expected) {
            assert!(p > 0.0 || count == 0, "a token of probability 0 was drawn: {found:?}");
            if p > 0.0 {
                chi_square += (count as f64 - n as f64 * p).powi(2) / (n as f64 * p);
            }
        }
        assert!(chi_square < 20.0, "chi² {chi_square} of {found:?}"); // p ≈ 0.0005 at 4 degrees of freedom
    }

    fn logits_of(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| (p.ln() + 3.0) as f32).collect()
    }

    #[test]
    fn draws_follow_the_softmax() {
        let p = [0.1, 0.4, 0.05, 0.25, 0.2];
        check_distribution(&logits_of(&p), &plain(), &p);
        let squares: f64 = p.iter().map(|p| p * p).sum();
        let half = SampleOptions { temperature: 0.5, ..plain() };
        check_distribution(&logits_of(&p), &half, &p.map(|p| p * p / squares));
    }

    #[test]
    fn top_k_keeps_exactly_k_and_first_of_equals() {
        let p = [0.1, 0.4, 0.05, 0.25, 0.2];
        let top = |top_k| SampleOptions { top_k, ..plain() };
        check_distribution(&logits_of(&p), &top(2), &[0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
        check_distribution(&logits_of(&p), &top(5), &p);
        check_distribution(&logits_of(&p), &top(100), &p);
        check_distribution(&[1.0; 5], &top(3), &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check_distribution(&[0.0, 2.0, 2.0], &top(1), &[0.0, 1.0, 0.0]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        let p = [0.1, 0.4, 0.05, 0.25, 0.2];
        let top = |top_p| SampleOptions { top_p, ..plain() };
        check_distribution(&logits_of(&p), &top(0.6), &[0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
        check_distribution(&logits_of(&p), &top(0.39), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        check_distribution(&logits_of(&p), &top(1e-9), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        // A flat distribution needs more candidates than are sorted at first.
        let flat = counts(&[0.0; 1000], &top(0.5), 20_000);
        assert_eq!(flat.iter().filter(|&&count| count > 0).count(), 500);
        assert!(flat[500..].iter().all(|&count| count == 0));
    }

    #[test]
    fn temperature_zero_is_argmax() {
        let greedy = SampleOptions { temperature: 0.0, ..plain() };
        let first = |logits: &[f32]| id(logits, &greedy, 0.7);
        assert_eq!(first(&[1.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(first(&[f32::NAN, -1.0, f32::NAN]), 1);
    }

    #[test]
    fn infinities_and_nans_are_survived() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for options in [plain(), SampleOptions { top_k: 2, top_p: 0.9, ..plain() }] {
            check_distribution(&[nan, 1.0, -inf], &options, &[0.0, 1.0, 0.0]);
            check_distribution(&[0.0, inf, nan], &options, &[0.0, 1.0, 0.0]);
            check_distribution(&[nan, nan], &options, &[1.0, 0.0]);
            check_distribution(&[-inf, -inf], &options, &[1.0, 0.0]);
        }
        check_distribution(&[1.0, 2.0], &SampleOptions { temperature: 1e-38, ..plain() }, &[0.0, 1.0]);
        check_distribution(&[1.0, 2.0], &SampleOptions { temperature: nan, ..plain() }, &[0.0, 1.0]);
    }

    #[test]
    fn min_p_leaves_out_the_unlikely() {
        let p = [0.1, 0.4, 0.05, 0.25, 0.2];
        let options = SampleOptions { min_p: 0.3, ..plain() };
        check_distribution(&logits_of(&p), &options, &[0.0, 0.4 / 0.85, 0.0, 0.25 / 0.85, 0.2 / 0.85]);
    }

    #[test]
    fn penalties_count_each_token_as_they_should() {
        let seen = Seen { prompt: &[0, 1], answer: &[0, 3, 3, 99] };
        let after = |options| penalized(&[2.0, -1.0, 1.5, -3.0], seen, &options).unwrap();
        assert_eq!(after(SampleOptions { repetition_penalty: 2.0, ..plain() }), [1.0, -2.0, 1.5, -6.0]);
        let of_answer = SampleOptions { presence_penalty: 0.5, frequency_penalty: 0.25, ..plain() };
        assert_eq!(after(of_answer), [1.25, -1.0, 1.5, -4.0]);
        let greedy = SampleOptions { temperature: 0.0, presence_penalty: 1.0, ..plain() };
        assert_eq!(sample(&[2.0, 1.5], Seen { prompt: &[], answer: &[0] }, &greedy, 0.0).id, 1);
    }

    #[test]
    fn the_likeliest_are_those_of_a_sort() {
        let mut rng = Rng::new(&[8]);
        for n in [1, 5, 127, 128, 129, 5_000] {
            // Few distinct values, so that equal ones meet at the edge.
            let logits: Vec<f32> = (0..n).map(|_| rng.below(60) as f32).collect();
            let mut sorted: Vec<u32> = (0..n as u32).collect();
            sorted.sort_by_key(|&i| (-logits[i as usize] as i64, i));
            for k in [1, 2, 50, 300].into_iter().filter(|k| *k <= n) {
                let found: Vec<u32> = likeliest(&logits, k).iter().map(|c| c.token).collect();
                assert_eq!(found, sorted[..k], "{k} of {n}");
            }
        }
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let p = [0.1, 0.4, 0.05, 0.25, 0.2];
        let options = SampleOptions { temperature: 0.0, logprobs: Some(2), presence_penalty: 9.0, ..plain() };
        let drawn = sample(&logits_of(&p), Seen { prompt: &[], answer: &[1] }, &options, 0.0);
        let logprobs = drawn.logprobs.unwrap();
        assert_eq!((drawn.id, logprobs.top[0].0, logprobs.top[1].0), (3, 1, 3));
        assert!((logprobs.chosen - 0.25f32.ln()).abs() < 1e-5, "{}", logprobs.chosen);
        assert!((logprobs.top[0].1 - 0.4f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn the_same_stream_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..65_536).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        let draw = |seed| {
            let mut rng = Rng::new(&[seed]);
            let options = SampleOptions { top_p: 0.95, ..SampleOptions::default() };
            (0..20).map(|_| id(&logits, &options, rng.uniform())).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn options_without_meaning_are_refused() {
        let refused = |options: SampleOptions| options.checked().unwrap_err().to_string();
        assert_eq!(
            refused(SampleOptions { temperature: -1.0, ..plain() }),
            "temperature must be 0 to 2, found -1"
        );
        assert!(refused(SampleOptions { top_p: f32::NAN, ..plain() }).contains("top-p"));
        assert!(refused(SampleOptions { repetition_penalty: 0.0, ..plain() }).contains("penalty"));
        assert_eq!(plain().checked(), Ok(plain()));
    }
}
