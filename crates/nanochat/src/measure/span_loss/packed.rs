//! Packs texts with shared prefixes, so that each prefix is computed once: a question with four answers costs one
//! question.
//!
//! Everything except attention works on one token at a time, so the tokens of a shared prefix are computed once. Only
//! for attention, 6 % of the work at 1,000 tokens of a d20, the rows of each text are laid out in full.

use std::sync::Arc;

use nanochat_tensor::{RowIndex, Tape, Tensor};

use super::ScoredSpan;
use crate::model::device_sizes::DeviceSizes;
use crate::model::gpt::Gpt;

/// Lengths are rounded up to a multiple of this: aligned rows are faster, and fewer shapes occur.
const ROUND_TO: usize = 8;

/// The texts of one forward pass.
#[derive(Default)]
pub struct PackedTexts {
    /// The numbers of the texts in the input.
    pub spans: Vec<usize>,
    /// The distinct tokens (N), and the position (N) of each in its text.
    tokens: Vec<u32>,
    positions: Vec<usize>,
    /// The inputs of each text, as indices into the N tokens. Its last token predicts nothing and is left out.
    rows: Vec<Vec<u32>>,
}

impl PackedTexts {
    /// Packs texts, given in groups with shared prefixes, into as many passes as they need. Texts without scored tokens
    /// are left out.
    pub fn batches(model: &Gpt, groups: &[&[ScoredSpan]]) -> Vec<PackedTexts> {
        let device = model.device();
        let limit = DeviceSizes::of(&device).pass_tokens;
        let mut first = 0;
        let mut packed_groups: Vec<PackedTexts> = groups
            .iter()
            .map(|group| {
                first += group.len();
                PackedTexts::group(model, group, first - group.len())
            })
            .filter(|group| !group.rows.is_empty())
            .collect();
        // The longest come first: a lack of memory shows early, and the rows of one pass have similar lengths.
        packed_groups.sort_by_key(|group| std::cmp::Reverse(group.longest()));
        let mut batches: Vec<PackedTexts> = Vec::new();
        for group in packed_groups {
            match batches.last_mut().filter(|batch| batch.tokens.len() + group.tokens.len() <= limit) {
                Some(batch) => batch.append(group),
                None => batches.push(group),
            }
        }
        if device.properties().tunes_to_shapes {
            batches.iter_mut().for_each(|batch| batch.fill_up(limit));
        }
        batches
    }

    /// Packs one group of texts with shared prefixes, numbered from `first` on. Of each text only the tokens after its
    /// common prefix with the previous text are added.
    fn group(model: &Gpt, group: &[ScoredSpan], first: usize) -> PackedTexts {
        let mut packed = PackedTexts::default();
        let mut before: &[u32] = &[];
        for (i, span) in group.iter().enumerate().filter(|(_, span)| span.start < span.ids.len()) {
            let ids = span.cropped(model).0;
            let inputs = &ids[..ids.len() - 1];
            let common = inputs.iter().zip(before).take_while(|(a, b)| a == b).count();
            let mut rows = packed.rows.last().map_or(Vec::new(), |before| before[..common].to_vec());
            rows.extend((0..inputs.len() - common).map(|n| (packed.tokens.len() + n) as u32));
            packed.tokens.extend_from_slice(&inputs[common..]);
            packed.positions.extend(common..inputs.len());
            packed.rows.push(rows);
            packed.spans.push(first + i);
            before = inputs;
        }
        packed
    }

    fn append(&mut self, other: PackedTexts) {
        let moved = self.tokens.len() as u32;
        self.rows.extend(other.rows.into_iter().map(|row| row.into_iter().map(|n| n + moved).collect()));
        self.spans.extend(other.spans);
        self.tokens.extend(other.tokens);
        self.positions.extend(other.positions);
    }

    /// Adds padding tokens up to a multiple of `of`.
    fn fill_up(&mut self, of: usize) {
        let len = self.tokens.len().next_multiple_of(of);
        self.tokens.resize(len, 0);
        self.positions.resize(len, 0);
    }

    fn longest(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Returns the row of `hidden` for input `at` of the text at index `place` of the batch.
    pub fn row(&self, place: usize, at: usize) -> u32 {
        self.rows[place][at]
    }

    /// Returns the hidden states (N, C).
    pub fn hidden(&self, model: &Gpt) -> Tensor {
        let (tape, n) = (Tape::off(), self.tokens.len());
        let (b, t) = (self.rows.len(), self.longest().next_multiple_of(ROUND_TO));
        // `laid_out` (B, T) has indices into the N tokens, `taken_from` (N) indices into the B · T. Padding on the
        // right of a token does not change it.
        let (mut laid_out, mut taken_from) = (Vec::with_capacity(b * t), vec![0; n]);
        for row in &self.rows {
            row.iter().enumerate().for_each(|(i, &n)| taken_from[n as usize] = (laid_out.len() + i) as u32);
            laid_out.extend_from_slice(row);
            laid_out.resize(laid_out.len().next_multiple_of(t), 0);
        }
        let (laid_out, taken_from) = (RowIndex::new(laid_out), RowIndex::new(taken_from));
        let positions: Arc<[usize]> = self.positions.as_slice().into();
        model.hidden(&tape, &self.tokens, [1, n], &positions, &mut |_, q, k, v| {
            let lay_out = |x: &Tensor| {
                let (heads, d) = (x.shape()[2], x.shape()[3]);
                x.reshape(&[n, heads * d]).take_rows(&laid_out).reshape(&[b, t, heads, d])
            };
            let y = tape.attention(&lay_out(q), &lay_out(k), &lay_out(v), None);
            y.reshape(&[b * t, q.len() / n]).take_rows(&taken_from).reshape(q.shape())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::GptConfig;

    #[test]
    fn what_texts_share_is_computed_once() {
        let model = Gpt::init(GptConfig::from_depth(1, 50, 8).unwrap(), 1);
        let span = |ids: &[u32], start| ScoredSpan { ids: ids.to_vec(), start };
        // The third continues the second one, the fourth has nothing to predict.
        let group =
            [span(&[1, 2, 3, 4], 3), span(&[1, 2, 5, 6], 3), span(&[1, 2, 5, 6, 7], 3), span(&[1], 1)];
        let alone = [span(&[1, 2, 3, 4], 2)];
        let batches = PackedTexts::batches(&model, &[&group, &alone]);
        let [batch] = batches.as_slice() else { panic!("{} batches", batches.len()) };
        assert_eq!(batch.tokens, [1, 2, 3, 5, 6, 1, 2, 3]);
        assert_eq!(batch.positions, [0, 1, 2, 2, 3, 0, 1, 2]);
        assert_eq!(batch.rows, [vec![0, 1, 2], vec![0, 1, 3], vec![0, 1, 3, 4], vec![5, 6, 7]]);
        assert_eq!(batch.spans, [0, 1, 2, 4]);
    }

    #[test]
    fn a_pass_has_no_more_tokens_than_its_limit_unless_one_text_has() {
        let model = Gpt::init(GptConfig::from_depth(1, 50, 1_024).unwrap(), 1);
        let spans: Vec<[ScoredSpan; 1]> =
            (1..200).map(|len| [ScoredSpan { ids: vec![7; 50 * len], start: 50 * len - 1 }]).collect();
        let groups: Vec<&[ScoredSpan]> = spans.iter().map(|span| span.as_slice()).collect();
        let batches = PackedTexts::batches(&model, &groups);
        let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.spans.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..199).collect::<Vec<_>>());
        let limit = DeviceSizes::CPU.pass_tokens;
        assert!(batches.iter().all(|batch| batch.tokens.len() <= limit || batch.spans.len() == 1));
    }
}
