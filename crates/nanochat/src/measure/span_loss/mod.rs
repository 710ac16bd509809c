//! Measures how likely a model finds the end of given texts, many in one forward pass.

mod packed;

use nanochat_tensor::{RowIndex, Tensor};

use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Gpt;
use packed::PackedTexts;

/// A sequence whose tokens from `start` on are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoredSpan {
    pub ids: Vec<u32>,
    /// The first scored token, at least 1: nothing predicts token 0.
    pub start: usize,
}

/// The minimum rows of logits at a time on a device that tunes kernels to shapes; larger numbers are powers of two, so
/// that few shapes occur.
const TUNED_ROWS: usize = 512;

impl ScoredSpan {
    /// Returns the number of tokens to cut at the beginning, which exceed the model's number of positions; the last
    /// token needs no position.
    fn surplus(&self, model: &Gpt) -> usize {
        self.ids.len().saturating_sub(model.max_positions() + 1)
    }

    /// Whether the beginning is cut off.
    pub fn is_cropped(&self, model: &Gpt) -> bool {
        self.surplus(model) > 0
    }

    /// Returns the last tokens that fit into the model, and the start of the span in them.
    fn cropped(&self, model: &Gpt) -> (&[u32], usize) {
        let cut = self.surplus(model);
        (&self.ids[cut..], self.start.saturating_sub(cut).max(1))
    }
}

/// Returns the mean nll of each span, in order; NaN for a span without tokens. The spans of a group share a prefix.
pub fn span_losses(model: &Gpt, groups: &[&[ScoredSpan]]) -> Vec<f64> {
    let mut losses = vec![f64::NAN; groups.iter().map(|group| group.len()).sum()];
    let nll = |x: &Tensor, targets: &[u32]| model.nll(x, targets).data().to_vec();
    for_each_span(model, groups, nll, |i, nll, _| {
        losses[i] = nll.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nll.len() as f64;
    });
    losses
}

/// Returns, for each span, whether greedy decoding would write it.
pub fn spans_are_greedy(model: &Gpt, groups: &[&[ScoredSpan]]) -> Vec<bool> {
    let mut greedy = vec![false; groups.iter().map(|group| group.len()).sum()];
    let likeliest = |x: &Tensor, _: &[u32]| model.likeliest(x);
    for_each_span(model, groups, likeliest, |i, likeliest, targets| greedy[i] = likeliest == targets);
    greedy
}

/// Calls `on_span` for each span with its number, the results of `at_each(x (N, C), targets (N))` for its tokens, and
/// these tokens.
fn for_each_span<T: Clone>(
    model: &Gpt,
    groups: &[&[ScoredSpan]],
    at_each: impl Fn(&Tensor, &[u32]) -> Vec<T>,
    mut on_span: impl FnMut(usize, &[T], &[u32]),
) {
    let spans: Vec<&ScoredSpan> = groups.iter().copied().flatten().collect();
    for batch in PackedTexts::batches(model, groups) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (place, &i) in batch.spans.iter().enumerate() {
            let (ids, start) = spans[i].cropped(model);
            rows.extend((start..ids.len()).map(|at| batch.row(place, at - 1)));
            targets.extend_from_slice(&ids[start..]);
        }
        let found = in_chunks(model, &batch.hidden(model), &rows, &targets, &at_each);
        let mut begin = 0;
        for &i in &batch.spans {
            let (ids, start) = spans[i].cropped(model);
            let of_span = begin..begin + ids.len() - start;
            on_span(i, &found[of_span.clone()], &targets[of_span.clone()]);
            begin = of_span.end;
        }
    }
}

/// Computes `at_each` for some rows of x, as many at a time as the memory for logits allows.
fn in_chunks<T: Clone>(
    model: &Gpt,
    x: &Tensor,
    rows: &[u32],
    targets: &[u32],
    at_each: impl Fn(&Tensor, &[u32]) -> Vec<T>,
) -> Vec<T> {
    let device = model.device();
    let chunk = (DeviceSizes::of(&device).logits / model.config.vocab_size).max(1);
    let mut found = Vec::with_capacity(rows.len());
    for (rows, targets) in rows.chunks(chunk).zip(targets.chunks(chunk)) {
        let wanted = rows.len();
        let (mut rows, mut targets) = (rows.to_vec(), targets.to_vec());
        if device.properties().tunes_to_shapes {
            let more = wanted.next_power_of_two().max(TUNED_ROWS);
            rows.resize(more, 0);
            targets.resize(more, 0);
        }
        found.extend_from_slice(&at_each(&x.take_rows(&RowIndex::new(rows)), &targets)[..wanted]);
    }
    found
}

/// Returns, for each sequence, the result of `choose` for the logits of the tokens `among` after it.
pub fn after_each<T: Clone + Default>(
    model: &Gpt,
    sequences: &[Vec<u32>],
    among: &[u32],
    choose: impl Fn(usize, &[f32]) -> T,
) -> Vec<T> {
    // One more token, whichever it is, makes the last position of the sequence predict.
    let longer = |ids: &Vec<u32>| [ScoredSpan { ids: [ids.as_slice(), &[0]].concat(), start: ids.len() }];
    let spans: Vec<[ScoredSpan; 1]> = sequences.iter().map(longer).collect();
    let groups: Vec<&[ScoredSpan]> = spans.iter().map(|span| span.as_slice()).collect();
    let mut padded = among.to_vec();
    padded.resize(among.len().next_multiple_of(8), 0); // products of aligned rows are faster on a GPU
    let among_padded = RowIndex::new(padded);
    let mut chosen = vec![T::default(); sequences.len()];
    for batch in PackedTexts::batches(model, &groups) {
        let last = |(place, &i): (usize, &usize)| batch.row(place, spans[i][0].cropped(model).0.len() - 2);
        let rows = RowIndex::new(batch.spans.iter().enumerate().map(last).collect());
        let logits = model.logits_of(&batch.hidden(model).take_rows(&rows), &among_padded);
        for (&i, logits) in batch.spans.iter().zip(logits.data().chunks_exact(logits.cols())) {
            chosen[i] = choose(i, &logits[..among.len()]);
        }
    }
    chosen
}

/// Returns the index of the highest logit, the first if several are equal.
pub fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Rng;

    use super::*;
    use crate::model::config::GptConfig;

    fn model() -> Gpt {
        let mut model = Gpt::init(GptConfig::from_depth(2, 50, 8).unwrap(), 1);
        for (i, (_, _, w)) in model.params_mut().into_iter().enumerate() {
            let mut rng = Rng::new(&[7, i as u64]);
            w.data_mut().iter_mut().for_each(|w| *w = 0.1 * rng.normal());
        }
        model
    }

    /// Returns spans of many lengths, some without tokens, one longer than the model's maximum length.
    fn spans() -> Vec<ScoredSpan> {
        let mut rng = Rng::new(&[3]);
        let mut span = |len: usize, start: usize| ScoredSpan {
            ids: (0..len).map(|_| rng.below(50) as u32).collect(),
            start,
        };
        let mut spans: Vec<ScoredSpan> = (2..40).map(|len| span(len, 1 + len / 2)).collect();
        spans.extend([span(5, 5), span(100, 97)]);
        spans
    }

    /// Returns the nll of each token of a span and whether it is the argmax, computed from the sequence alone.
    fn plainly(model: &Gpt, span: &ScoredSpan) -> Vec<(f64, bool)> {
        let (ids, start) = span.cropped(model);
        let logits = model.logits(&ids[..ids.len() - 1], [1, ids.len() - 1]);
        let of = |at: usize| {
            let row = &logits.data()[(at - 1) * 50..at * 50];
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            (sum.ln() - f64::from(row[ids[at] as usize]), argmax(row) == ids[at] as usize)
        };
        (start..ids.len()).map(of).collect()
    }

    /// Returns spans alone and in groups with shared prefixes; a few end as the model would end them.
    fn groups(model: &Gpt) -> Vec<Vec<ScoredSpan>> {
        let mut spans = spans();
        for span in &mut spans[..10] {
            let last = span.ids.len() - 1;
            let logits = model.logits(&span.ids[..last], [1, last]);
            span.ids[last] = argmax(&logits.data()[(last - 1) * 50..]) as u32;
            span.start = last;
        }
        let continued = |span: &ScoredSpan| {
            let with = |common: usize, end: &[u32]| ScoredSpan {
                ids: [&span.ids[..common], end].concat(),
                start: (common + end.len() - 1).max(1),
            };
            let len = span.ids.len();
            vec![
                span.clone(),
                with(len, &[]),
                with(len - 1, &[9, 4]),
                with(len / 2, &[3]),
                with(0, &[1, 2, 3]),
            ]
        };
        let (alone, together) = spans.split_at(20);
        alone.iter().map(|span| vec![span.clone()]).chain(together.iter().map(continued)).collect()
    }

    #[test]
    fn batches_give_what_each_sequence_gives_alone() {
        let model = model();
        let groups = groups(&model);
        let all: Vec<&[ScoredSpan]> = groups.iter().map(Vec::as_slice).collect();
        let (losses, greedy) = (span_losses(&model, &all), spans_are_greedy(&model, &all));
        for (i, span) in groups.iter().flatten().enumerate() {
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
        let among = [7, 0, 49];
        let found = after_each(&model, &sequences, &among, |_, logits| logits.to_vec());
        for (ids, found) in sequences.iter().zip(found) {
            let logits = model.logits(ids, [1, ids.len()]);
            let expected = &logits.data()[(ids.len() - 1) * 50..];
            assert!(among.iter().zip(&found).all(|(&id, z)| (z - expected[id as usize]).abs() < 1e-4));
        }
    }
}
