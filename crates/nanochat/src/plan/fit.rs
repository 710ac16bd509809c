//! Suggests settings that fit when the requested ones exceed a GPU's memory.

use super::Memory;
use crate::model::config::{GptConfig, Recompute};

/// The estimate is off by a few percent, and the memory pool cannot use every gap.
const MARGIN: f64 = 1.03;

/// Describes the largest device batches that fit in `bytes`, for each recompute setting that allows a larger one. They
/// are divisors of the requested batch, so that the total batch stays a multiple.
pub fn what_fits(model: &GptConfig, device_batch: usize, bytes: f64) -> String {
    let mut found: Vec<(usize, Recompute)> = Vec::new();
    for recompute in [Recompute::None, Recompute::Mlp, Recompute::Block] {
        let fits = |batch: &usize| MARGIN * Memory::gpu(model, *batch, 1, recompute).total() <= bytes;
        let divisors = (1..=device_batch).rev().filter(|batch| device_batch.is_multiple_of(*batch));
        let best = divisors.clone().find(fits).unwrap_or(0);
        if best > found.last().map_or(0, |(batch, _)| *batch) {
            found.push((best, recompute));
        }
    }
    let flags = |(batch, recompute): &(usize, Recompute)| match recompute {
        Recompute::None => format!("--device-batch-size {batch}"),
        _ => format!("--device-batch-size {batch} --recompute {recompute}"),
    };
    match found.iter().map(flags).collect::<Vec<_>>().as_slice() {
        [] => "no batch fits: choose a smaller --depth, vocabulary or row length".to_string(),
        [one] => format!("{one} fits"),
        [first @ .., last] => format!("{} or {last} fits", first.join(", ")),
    }
}
