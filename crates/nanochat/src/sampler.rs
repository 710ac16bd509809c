//! Choice of the next token from its logits: repetition penalty (Keskar et al. 2019), top-k, temperature,
//! top-p (Holtzman et al. 2020), in this order.

use nanochat_tensor::Rng;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How the next token is chosen. The defaults are the terminal chat's.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleOptions {
    /// Randomness: 0 always takes the likeliest token, 1 the model's own distribution
    #[arg(long, default_value_t = SampleOptions::default().temperature)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens only; 0 turns this off
    #[arg(long, default_value_t = SampleOptions::default().top_k)]
    pub top_k: usize,
    /// Choose among the fewest tokens whose probabilities add up to P; 1 turns this off
    #[arg(long, default_value_t = SampleOptions::default().top_p)]
    pub top_p: f32,
    /// Make tokens that were already used less likely, by this factor; 1 turns this off
    #[arg(long, default_value_t = SampleOptions::default().repetition_penalty)]
    pub repetition_penalty: f32,
    /// Seed of the random choices
    #[arg(long, default_value_t = SampleOptions::default().seed)]
    pub seed: u64,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions { temperature: 0.6, top_k: 50, top_p: 1.0, repetition_penalty: 1.0, seed: 42 }
    }
}

/// An option that has no meaning.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{option} must be {allowed}, found {found}")]
pub struct OptionError {
    pub option: &'static str,
    pub allowed: &'static str,
    pub found: f32,
}

impl SampleOptions {
    /// Refuses values without a meaning, NaN included.
    pub fn checked(self) -> Result<SampleOptions, OptionError> {
        let check = |option, found: f32, fits: bool, allowed| match fits {
            true => Ok(()),
            false => Err(OptionError { option, allowed, found }),
        };
        check("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "0 to 100")?;
        check("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        let penalty = self.repetition_penalty;
        check("repetition penalty", penalty, (0.01..=100.0).contains(&penalty), "0.01 to 100")?;
        Ok(self)
    }
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

/// Draws the next token from `logits` [vocab], which it may change. `previous` are the row's tokens so
/// far, for the repetition penalty. A NaN counts as minus infinity.
pub fn sample(logits: &mut [f32], previous: &[u32], options: &SampleOptions, rng: &mut Rng) -> u32 {
    assert!(!logits.is_empty(), "sample needs at least one logit");
    for logit in logits.iter_mut() {
        *logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) };
    }
    penalize_repetition(logits, previous, options.repetition_penalty);
    let greedy = argmax(logits);
    let highest = logits[greedy as usize];
    if options.temperature <= 0.0 || options.temperature.is_nan() || highest == f32::NEG_INFINITY {
        return greedy;
    }
    let mut candidates: Vec<Candidate> =
        (0..).zip(logits.iter()).map(|(token, &weight)| Candidate { token, weight }).collect();
    if (1..candidates.len()).contains(&options.top_k) {
        sort_head(&mut candidates, options.top_k);
        candidates.truncate(options.top_k);
    }
    for candidate in &mut candidates {
        candidate.weight = ((candidate.weight - highest) / options.temperature).exp();
    }
    if options.top_p < 1.0 {
        keep_nucleus(&mut candidates, options.top_p);
    }
    draw(&candidates, rng)
}

/// The token with the highest logit, the first of equals.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Divides positive logits of used tokens by `penalty` and multiplies negative ones, each token once.
fn penalize_repetition(logits: &mut [f32], previous: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut used = previous.to_vec();
    used.sort_unstable();
    used.dedup();
    for token in used {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
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
fn draw(candidates: &[Candidate], rng: &mut Rng) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = rng.uniform() * total;
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

    fn plain() -> SampleOptions {
        SampleOptions { temperature: 1.0, top_k: 0, ..SampleOptions::default() }
    }

    /// How often each token is drawn in `n` draws.
    fn counts(logits: &[f32], options: &SampleOptions, n: usize) -> Vec<usize> {
        let (mut rng, mut counts) = (Rng::new(&[5]), vec![0; logits.len()]);
        (0..n).for_each(|_| counts[sample(&mut logits.to_vec(), &[], options, &mut rng) as usize] += 1);
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
        let first = |logits: &[f32]| sample(&mut logits.to_vec(), &[], &greedy, &mut Rng::new(&[1]));
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
    fn repetition_is_penalized_once_a_token() {
        let mut logits = [2.0, -1.0, 1.5, -3.0];
        penalize_repetition(&mut logits, &[0, 1, 0, 99], 2.0);
        assert_eq!(logits, [1.0, -2.0, 1.5, -3.0]);
        let options = SampleOptions { temperature: 0.0, repetition_penalty: 2.0, ..plain() };
        assert_eq!(sample(&mut [2.0, 1.5], &[0, 0], &options, &mut Rng::new(&[1])), 1);
    }

    #[test]
    fn the_same_stream_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..65_536).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        let draw = |seed| {
            let mut rng = Rng::new(&[seed]);
            let options = SampleOptions { top_p: 0.95, ..SampleOptions::default() };
            (0..20).map(|_| sample(&mut logits.clone(), &[], &options, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn options_without_meaning_are_refused() {
        let refused = |options: SampleOptions| options.checked().unwrap_err().to_string();
        assert_eq!(
            refused(SampleOptions { temperature: -1.0, ..plain() }),
            "temperature must be 0 to 100, found -1"
        );
        assert!(refused(SampleOptions { top_p: f32::NAN, ..plain() }).contains("top-p"));
        assert!(refused(SampleOptions { repetition_penalty: 0.0, ..plain() }).contains("penalty"));
        assert_eq!(plain().checked(), Ok(plain()));
    }
}
