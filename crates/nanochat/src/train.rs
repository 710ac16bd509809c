//! The step that every training stage shares.

use nanochat_tensor::profile::part;
use nanochat_tensor::{Comm, Grads, Tape};

use crate::batch::Batch;
use crate::gpt::Gpt;
use crate::optim::{Moment, Optimizer};

/// What one step measured, before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Mean nll in nats over the tokens that count, of all micro-batches together.
    pub loss: f32,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f32,
}

/// A loss or gradient that is no longer a number.
#[derive(Debug, thiserror::Error)]
#[error(
    "the loss became {loss} (gradient norm {grad_norm}): the learning rates are too high for this model and batch"
)]
pub struct Diverged {
    pub loss: f32,
    pub grad_norm: f32,
}

impl Diverged {
    /// Seen by an evaluation: the last update did it.
    pub fn in_evaluation() -> Diverged {
        Diverged { loss: f32::NAN, grad_norm: f32::NAN }
    }
}

/// One optimizer step over the `micro_batches` of all ranks, of which these are this rank's; after an error the
/// weights are of no use. Losses are sums, scaled once by the weight of the whole step, so every token counts alike
/// however the step is cut.
pub fn step(
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    micro_batches: &[Batch],
    moment: Moment,
) -> Result<StepResult, Diverged> {
    let weights = micro_batches.iter().flat_map(|batch| &batch.weights);
    let weight = sum(optimizer.comm(), weights.map(|&weight| f64::from(weight)).sum());
    step_over(weight as f32, model, optimizer, micro_batches, moment)
}

/// As [`step`], with the losses' sum divided by `weight`: where weights may be negative, as advantages are,
/// their own sum is no measure.
pub fn step_over(
    weight: f32,
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    micro_batches: &[Batch],
    moment: Moment,
) -> Result<StepResult, Diverged> {
    let scale = 1.0 / weight;
    let mut grads = Grads::default();
    let mut losses = Vec::with_capacity(micro_batches.len());
    for (i, batch) in micro_batches.iter().enumerate() {
        let tape = Tape::computing(model.compute);
        let (loss_sum, _) = part("forward", || model.loss_sum(&tape, batch));
        if i + 1 == micro_batches.len() {
            // From here on a gradient that is complete goes to the rank that updates with it.
            grads.reduce_into(optimizer.reduction(model));
        }
        // Adds into grads, frees the activations.
        part("backward", || tape.backward(&loss_sum, scale, &mut grads));
        losses.push(loss_sum);
    }
    let grad_norm = part("optimizer", || optimizer.step(model, &mut grads, moment));
    // Read when all is under way: on a GPU a read waits.
    let loss: f32 = losses.iter().fold(0.0, |sum, loss| sum + scale * loss.item());
    let loss = sum(optimizer.comm(), f64::from(loss)) as f32;
    if !loss.is_finite() || !grad_norm.is_finite() {
        return Err(Diverged { loss, grad_norm });
    }
    Ok(StepResult { loss, grad_norm })
}

/// Of the values of all ranks.
fn sum(comm: &Comm, value: f64) -> f64 {
    let mut values = [value];
    comm.sum_f64(&mut values);
    values[0]
}
