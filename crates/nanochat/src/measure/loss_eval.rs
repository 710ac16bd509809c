//! Bits per byte: the loss of a text divided by its bytes, which does not depend on the tokenizer.
//!
//! It is the nats of the targets that have bytes / (ln 2 · those bytes). Special tokens have no bytes and do not count.
//! The lengths are those of a token's raw bytes, never of a string made from them.

use nanochat_tensor::{Comm, Tape};

use crate::model::batch::Batch;
use crate::model::gpt::Gpt;
use crate::ranks;

/// Returns the bits per byte of a text in batches; each rank measures its share, and all return the same.
/// `byte_lengths` (V) are the bytes of every token, 0 for special ones. Returns 0 if nothing was measured; NaN means a
/// broken model.
pub fn bits_per_byte<E>(
    model: &Gpt,
    batches: impl Iterator<Item = Result<Batch, E>>,
    byte_lengths: &[u32],
    comm: &Comm,
) -> Result<f64, E> {
    let measured = |batch: Result<Batch, E>| Ok(nats_and_bytes(model, &batch?, byte_lengths));
    let mine = ranks::mine_of(comm, batches).map(measured).collect::<Result<Vec<_>, E>>()?;
    let all = ranks::gather(comm, mine);
    let nats: f64 = all.iter().map(|(nats, _)| nats).sum();
    let bytes: u64 = all.iter().map(|(_, bytes)| bytes).sum();
    Ok(nats / (std::f64::consts::LN_2 * bytes.max(1) as f64))
}

fn nats_and_bytes(model: &Gpt, batch: &Batch, byte_lengths: &[u32]) -> (f64, u64) {
    let lengths = batch
        .targets
        .iter()
        .zip(&batch.weights)
        .map(|(&target, &weight)| if weight == 0.0 { 0 } else { byte_lengths[target as usize] });
    let lengths: Vec<u32> = lengths.collect();
    let weights = lengths.iter().map(|&len| if len > 0 { 1.0 } else { 0.0 }).collect();
    let (_, nll) = model.loss_sum(&Tape::off(), &Batch { weights, ..batch.clone() });
    let nats = nll.host().iter().map(|&nll| f64::from(nll)).sum();
    (nats, lengths.iter().map(|&len| u64::from(len)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::GptConfig;
    use crate::testing::on_ranks;

    #[test]
    fn an_untrained_model_pays_log2_of_the_vocabulary_for_every_token() {
        let model = Gpt::init(GptConfig::from_depth(1, 64, 8).unwrap(), 0);
        let batch =
            Batch { inputs: vec![1; 8], targets: (0..8).collect(), weights: vec![1.0; 8], shape: [2, 4] };
        // Token 0 is special, the others have two bytes: 6 bits for two bytes.
        let lengths: Vec<u32> = (0..64).map(|id| if id == 0 { 0 } else { 2 }).collect();
        let batches = || [batch.clone(), batch.clone(), batch.clone()].into_iter().map(Ok::<_, ()>);
        let alone = bits_per_byte(&model, batches(), &lengths, &Comm::alone()).unwrap();
        assert!((alone - 3.0).abs() < 1e-5, "{alone}");
        let shared = on_ranks(2, |comm| bits_per_byte(&model, batches(), &lengths, &comm).unwrap());
        assert_eq!(shared, [alone; 2]);
        assert_eq!(nats_and_bytes(&model, &batch, &lengths).1, 14);
    }
}
