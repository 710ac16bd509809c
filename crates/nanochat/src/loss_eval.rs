//! Bits per byte: the loss of a text per byte of it, which does not depend on the tokenizer.
//!
//! nats of the targets that have bytes / (ln 2 · those bytes). Special tokens have none and do not
//! count; lengths are those of the raw bytes of a token, never of a string made from them.

use nanochat_tensor::Tape;

use crate::batch::Batch;
use crate::gpt::Gpt;

/// Sums over any number of batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct BitsPerByte {
    nats: f64,
    bytes: u64,
}

impl BitsPerByte {
    /// `byte_lengths` (V): bytes of every token, 0 for special ones.
    pub fn add(&mut self, model: &Gpt, batch: &Batch, byte_lengths: &[u32]) {
        let lengths = batch
            .targets
            .iter()
            .zip(&batch.weights)
            .map(|(&target, &weight)| if weight == 0.0 { 0 } else { byte_lengths[target as usize] });
        let lengths: Vec<u32> = lengths.collect();
        let weights = lengths.iter().map(|&len| if len > 0 { 1.0 } else { 0.0 }).collect();
        let (_, nll) = model.loss_sum(&Tape::off(), &Batch { weights, ..batch.clone() });
        self.nats += nll.host().iter().map(|&nll| f64::from(nll)).sum::<f64>();
        self.bytes += lengths.iter().map(|&len| u64::from(len)).sum::<u64>();
    }

    /// 0 where nothing was measured; NaN means a broken model.
    pub fn value(&self) -> f64 {
        self.nats / (std::f64::consts::LN_2 * self.bytes.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GptConfig;

    #[test]
    fn an_untrained_model_pays_log2_of_the_vocabulary_for_every_token() {
        let model = Gpt::init(GptConfig::from_depth(1, 64, 8).unwrap(), 0);
        let batch =
            Batch { inputs: vec![1; 8], targets: (0..8).collect(), weights: vec![1.0; 8], shape: [2, 4] };
        // Token 0 is special, the others have two bytes: 6 bits for two bytes.
        let lengths: Vec<u32> = (0..64).map(|id| if id == 0 { 0 } else { 2 }).collect();
        let mut bpb = BitsPerByte::default();
        bpb.add(&model, &batch, &lengths);
        assert!((bpb.value() - 3.0).abs() < 1e-5, "{}", bpb.value());
        assert_eq!(bpb.bytes, 14);
    }
}
