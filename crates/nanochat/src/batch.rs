//! What one forward and backward pass is fed.

use serde::{Deserialize, Serialize};

/// B rows of T tokens; every vector is (B, T), row after row. The loss is Σ weight · nll.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub inputs: Vec<u32>,
    /// The token after each input; any valid id where the weight is 0.
    pub targets: Vec<u32>,
    /// 1 in pretraining; in chat training 1 on what the assistant says, else 0.
    pub weights: Vec<f32>,
    /// [B, T]
    pub shape: [usize; 2],
}

/// Row lengths are rounded up to this: aligned rows are faster, and few shapes occur.
const ROUND_TO: usize = 8;

/// Tokens of one row. `weights[i]` is how much predicting `ids[i]` counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Batch {
    /// Rows of up to `max_len` + 1 tokens, padded on the right to about the longest's length.
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
}
