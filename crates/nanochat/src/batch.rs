//! What one forward and backward pass is fed.

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
