//! How likely a model finds the end of given texts: many sequences in batches of about equal length.

use std::sync::Arc;

use nanochat_tensor::{Device, Tape, Tensor};

use crate::batch::Batch;
use crate::gpt::Gpt;

/// A sequence of which the tokens from `start` on are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub ids: Vec<u32>,
    /// At least 1: nothing predicts the first token.
    pub start: usize,
}

/// Positions in a forward pass, padding included.
const CPU_POSITIONS: usize = 4_096;
const GPU_POSITIONS: usize = 65_536;
/// Row lengths are rounded up to this: aligned rows are faster, and few shapes occur.
const ROUND_TO: usize = 8;

/// Mean nll of each span, in order; NaN for one without tokens.
pub fn span_losses(model: &Gpt, spans: &[&Span]) -> Vec<f64> {
    let mut losses = vec![f64::NAN; spans.len()];
    in_batches(model, spans, |rows, ids, [b, t]| {
        let (mut targets, mut weights) = (vec![0; b * t], vec![0.0; b * t]);
        for (row, &i) in rows.iter().enumerate() {
            let (ids, start) = cropped(spans[i], model);
            for at in start..ids.len() {
                targets[row * t + at - 1] = ids[at];
                weights[row * t + at - 1] = 1.0;
            }
        }
        let batch = Batch { inputs: ids, targets, weights, shape: [b, t] };
        let (_, nll) = model.loss_sum(&Tape::off(), &batch);
        let nll = nll.host();
        for (row, &i) in rows.iter().enumerate() {
            let (ids, start) = cropped(spans[i], model);
            let of_span = &nll[row * t + start - 1..row * t + ids.len() - 1];
            let sum: f64 = of_span.iter().map(|&nll| f64::from(nll)).sum();
            losses[i] = sum / of_span.len() as f64;
        }
    });
    losses
}

/// Whether a model that always takes the likeliest token would write each span.
pub fn spans_are_greedy(model: &Gpt, spans: &[&Span]) -> Vec<bool> {
    let mut greedy = vec![false; spans.len()];
    in_batches(model, spans, |rows, inputs, [b, t]| {
        let x = hidden(model, &inputs, [b, t]);
        for (row, &i) in rows.iter().enumerate() {
            let (ids, start) = cropped(spans[i], model);
            let places: Vec<usize> = (row * t + start - 1..row * t + ids.len() - 1).collect();
            let logits = model.unembed(&x.gather_rows(&places));
            let predicted = logits.data().chunks_exact(logits.cols()).map(argmax);
            greedy[i] = predicted.eq(ids[start..].iter().map(|&id| id as usize));
        }
    });
    greedy
}

/// For each sequence what `choose` makes of the logits (V) of the token after it.
pub fn after_each<T: Clone + Default>(
    model: &Gpt,
    sequences: &[Vec<u32>],
    choose: impl Fn(usize, &[f32]) -> T,
) -> Vec<T> {
    // A token more, whatever it is, makes the last position of the sequence one that predicts.
    let longer = |ids: &Vec<u32>| Span { ids: [ids.as_slice(), &[0]].concat(), start: ids.len() };
    let spans: Vec<Span> = sequences.iter().map(longer).collect();
    let spans: Vec<&Span> = spans.iter().collect();
    let mut chosen = vec![T::default(); spans.len()];
    in_batches(model, &spans, |rows, inputs, [b, t]| {
        let x = hidden(model, &inputs, [b, t]);
        for (row, &i) in rows.iter().enumerate() {
            let last = row * t + cropped(spans[i], model).1 - 1;
            chosen[i] = choose(i, model.unembed(&x.gather_rows(&[last])).data());
        }
    });
    chosen
}

/// Index of the first of the highest.
pub fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Gives `run` the indices of the spans of each batch, their inputs (B, T) padded with token 0 on the right, and
/// [B, T]. What is on the right of a token does not change it. Spans without tokens are left out.
fn in_batches(model: &Gpt, spans: &[&Span], mut run: impl FnMut(&[usize], Vec<u32>, [usize; 2])) {
    let positions = if matches!(model.device(), Device::Cpu) { CPU_POSITIONS } else { GPU_POSITIONS };
    let inputs = |i: usize| cropped(spans[i], model).0.len() - 1;
    let mut order: Vec<usize> = (0..spans.len()).filter(|&i| spans[i].start < spans[i].ids.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(inputs(i))); // the longest first: memory that is not there is missed early
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let t = inputs(longest).next_multiple_of(ROUND_TO).min(model.max_positions());
        let (rows, more) = rest.split_at((positions / t).clamp(1, rest.len()));
        let mut ids = Vec::with_capacity(rows.len() * t);
        for (row, &i) in rows.iter().enumerate() {
            let of_row = cropped(spans[i], model).0;
            ids.extend_from_slice(&of_row[..of_row.len() - 1]);
            ids.resize((row + 1) * t, 0);
        }
        run(rows, ids, [rows.len(), t]);
        rest = more;
    }
}

/// As many of the last tokens as the model can take, and where the span starts in them.
fn cropped<'s>(span: &'s Span, model: &Gpt) -> (&'s [u32], usize) {
    let cut = span.ids.len().saturating_sub(model.max_positions() + 1);
    (&span.ids[cut..], span.start.saturating_sub(cut).max(1))
}

/// ids (B, T) -> hidden states (B·T, C)
fn hidden(model: &Gpt, ids: &[u32], [b, t]: [usize; 2]) -> Tensor {
    let tape = Tape::off();
    let positions: Arc<[usize]> = (0..b * t).map(|n| n % t).collect();
    model.hidden(&tape, ids, [b, t], &positions, &mut |_, q, k, v| tape.attention(q, k, v, None))
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Rng;

    use super::*;
    use crate::config::GptConfig;

    fn model() -> Gpt {
        let mut model = Gpt::init(GptConfig::from_depth(2, 50, 8).unwrap(), 1);
        for (i, (_, _, w)) in model.params_mut().into_iter().enumerate() {
            let mut rng = Rng::new(&[7, i as u64]);
            w.data_mut().iter_mut().for_each(|w| *w = 0.1 * rng.normal());
        }
        model
    }

    /// Spans of many lengths, some without tokens, one longer than the model's reach.
    fn spans() -> Vec<Span> {
        let mut rng = Rng::new(&[3]);
        let mut span =
            |len: usize, start: usize| Span { ids: (0..len).map(|_| rng.below(50) as u32).collect(), start };
        let mut spans: Vec<Span> = (2..40).map(|len| span(len, 1 + len / 2)).collect();
        spans.extend([span(5, 5), span(100, 97)]);
        spans
    }

    /// nll of each token of a span and whether it is the argmax, from the logits of the sequence alone.
    fn plainly(model: &Gpt, span: &Span) -> Vec<(f64, bool)> {
        let (ids, start) = cropped(span, model);
        let logits = model.logits(&ids[..ids.len() - 1], [1, ids.len() - 1]);
        let of = |at: usize| {
            let row = &logits.data()[(at - 1) * 50..at * 50];
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            (sum.ln() - f64::from(row[ids[at] as usize]), argmax(row) == ids[at] as usize)
        };
        (start..ids.len()).map(of).collect()
    }

    #[test]
    fn batches_give_what_each_sequence_gives_alone() {
        let (model, mut spans) = (model(), spans());
        for span in &mut spans[..10] {
            // One that the model would write.
            let last = span.ids.len() - 1;
            let logits = model.logits(&span.ids[..last], [1, last]);
            span.ids[last] = argmax(&logits.data()[(last - 1) * 50..]) as u32;
            span.start = last;
        }
        let all: Vec<&Span> = spans.iter().collect();
        let (losses, greedy) = (span_losses(&model, &all), spans_are_greedy(&model, &all));
        for (i, span) in spans.iter().enumerate() {
            let expected = plainly(&model, span);
            if expected.is_empty() {
                assert!(losses[i].is_nan());
                continue;
            }
            let mean = expected.iter().map(|(nll, _)| nll).sum::<f64>() / expected.len() as f64;
            assert!((losses[i] - mean).abs() < 1e-4, "{i}: {} {mean}", losses[i]);
            assert_eq!(greedy[i], expected.iter().all(|(_, is_argmax)| *is_argmax), "{i}");
        }
        assert!(greedy[..10].iter().all(|&greedy| greedy));
    }

    #[test]
    fn the_token_after_a_sequence_is_its_last_logits() {
        let model = model();
        let sequences: Vec<Vec<u32>> = spans().into_iter().map(|span| span.ids).take(20).collect();
        let found = after_each(&model, &sequences, |_, logits| logits.to_vec());
        for (ids, found) in sequences.iter().zip(found) {
            let logits = model.logits(ids, [1, ids.len()]);
            let expected = &logits.data()[(ids.len() - 1) * 50..];
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
}
