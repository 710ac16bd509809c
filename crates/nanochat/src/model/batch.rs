//! The input of one forward and backward pass.

use nanochat_tensor::Device;
use serde::{Deserialize, Serialize};

/// A batch of B rows of T tokens. Every vector is (B, T), row-major. The loss is Σ weight · nll.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub inputs: Vec<u32>,
    /// The token after each input; any valid id where the weight is 0.
    pub targets: Vec<u32>,
    /// The weight of each target: 1 in pretraining; in chat training 1 on the assistant's tokens, else 0.
    pub weights: Vec<f32>,
    /// The shape [B, T].
    pub shape: [usize; 2],
}

/// Row lengths are rounded up to a multiple of this: aligned rows are faster, and fewer shapes occur.
const ROUND_TO: usize = 8;
/// The multiple on a device that tunes kernels to shapes: rows of up to 2,048 tokens have only eight lengths.
const TUNED_ROUND_TO: usize = 256;

/// The tokens of one row. `weights[i]` is the weight of predicting `ids[i]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Batch {
    /// Makes a batch of rows of up to `max_len` + 1 tokens; a row's last token is only a target. The rows are padded on
    /// the right to the longest one's length, rounded up to a multiple of 8 but at most `max_len`.
    pub fn padded(rows: &[Row], max_len: usize, padding: u32) -> Batch {
        let longest = rows.iter().map(|row| row.ids.len() - 1).max().unwrap_or(0);
        let t = longest.next_multiple_of(ROUND_TO).min(max_len);
        let (mut inputs, mut targets, mut all_weights) = (Vec::new(), Vec::new(), Vec::new());
        for (i, Row { ids, weights }) in rows.iter().enumerate() {
            inputs.extend_from_slice(&ids[..ids.len() - 1]);
            targets.extend_from_slice(&ids[1..]);
            all_weights.extend_from_slice(&weights[1..]);
            let end = (i + 1) * t;
            inputs.resize(end, padding);
            targets.resize(end, padding);
            all_weights.resize(end, 0.0);
        }
        Batch { inputs, targets, weights: all_weights, shape: [rows.len(), t] }
    }

    /// Pads the batch to one of few shapes if the device tunes kernels to shapes; the loss stays the same. Rows are
    /// lengthened up to `max_len` at most, and rows without weight are added up to `rows`.
    pub fn regular(mut self, device: &Device, rows: usize, max_len: usize) -> Batch {
        let [b, t] = self.shape;
        if !device.properties().tunes_to_shapes || b * t == 0 {
            return self;
        }
        self.shape = [rows.max(b), t.next_multiple_of(TUNED_ROUND_TO).min(max_len).max(t)];
        let padding = self.inputs[0];
        self.inputs = grown(&self.inputs, t, self.shape, padding);
        self.targets = grown(&self.targets, t, self.shape, padding);
        self.weights = grown(&self.weights, t, self.shape, 0.0);
        self
    }
}

/// Returns rows of `t` values as B rows of T, with `padding` on the right and below.
fn grown<T: Copy>(values: &[T], t: usize, [rows, length]: [usize; 2], padding: T) -> Vec<T> {
    let mut grown = Vec::with_capacity(rows * length);
    for row in values.chunks_exact(t) {
        grown.extend_from_slice(row);
        grown.resize(grown.len() + length - t, padding);
    }
    grown.resize(rows * length, padding);
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_grow_to_the_right_and_downwards() {
        assert_eq!(grown(&[1, 2, 3, 4], 2, [3, 3], 9), [1, 2, 9, 3, 4, 9, 9, 9, 9]);
        let batch = Batch { inputs: vec![1; 6], targets: vec![2; 6], weights: vec![1.0; 6], shape: [2, 3] };
        assert_eq!(batch.clone().regular(&Device::Cpu, 4, 100), batch);
    }
}
