//! The optimizer step that all training stages share.

use nanochat_tensor::profile::part;
use nanochat_tensor::{Comm, Grads, Tape};

use crate::model::batch::Batch;
use crate::model::gpt::Gpt;
use crate::model::optim::{Optimizer, ScheduleValues};

/// The measurements of one step, before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// The mean negative log-likelihood (nll) in nats over the tokens that count, of all micro-batches of all ranks.
    pub loss: f32,
    /// The global norm of the gradient before clipping.
    pub grad_norm: f32,
}

/// The error of a loss or gradient norm that is infinite or NaN.
#[derive(Debug, thiserror::Error)]
#[error(
    "the loss became {loss} (gradient norm {grad_norm}): the learning rates are too high for this model and batch"
)]
pub struct Diverged {
    pub loss: f32,
    pub grad_norm: f32,
}

impl Diverged {
    /// Returns the error of an evaluation that found NaN: the last update caused it.
    pub fn in_evaluation() -> Diverged {
        Diverged { loss: f32::NAN, grad_norm: f32::NAN }
    }
}

/// Makes one optimizer step over the micro-batches of all ranks; `micro_batches` are this rank's. After an error the
/// weights are unusable. Losses are sums, scaled once by the total weight of the step, so that every token counts the
/// same for any number and size of micro-batches.
pub fn step(
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    micro_batches: &[Batch],
    scheduled: ScheduleValues,
) -> Result<StepResult, Diverged> {
    step_meanwhile(model, optimizer, micro_batches, scheduled, || ()).map(|(result, ())| result)
}

/// Makes a [`step`] and calls `meanwhile` after all backward passes have been queued, while a GPU is busy with them.
pub fn step_meanwhile<T>(
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    micro_batches: &[Batch],
    scheduled: ScheduleValues,
    meanwhile: impl FnOnce() -> T,
) -> Result<(StepResult, T), Diverged> {
    let weights = micro_batches.iter().flat_map(|batch| &batch.weights);
    let weight = sum(optimizer.comm(), weights.map(|&weight| f64::from(weight)).sum());
    run(weight as f32, model, optimizer, micro_batches, scheduled, meanwhile)
}

/// Makes a [`step`] that divides the sum of the losses by `weight` instead of by the sum of the weights, for weights
/// that may be negative, such as advantages.
pub fn step_over(
    weight: f32,
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    micro_batches: &[Batch],
    scheduled: ScheduleValues,
) -> Result<StepResult, Diverged> {
    run(weight, model, optimizer, micro_batches, scheduled, || ()).map(|(result, ())| result)
}

fn run<T>(
    weight: f32,
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    micro_batches: &[Batch],
    scheduled: ScheduleValues,
    meanwhile: impl FnOnce() -> T,
) -> Result<(StepResult, T), Diverged> {
    // If no token counts, as in a long answer that is context, the gradients are 0 and not 0/0.
    let scale = if weight == 0.0 { 0.0 } else { 1.0 / weight };
    let mut grads = Grads::default();
    let mut losses = Vec::with_capacity(micro_batches.len());
    for (i, batch) in micro_batches.iter().enumerate() {
        let tape = Tape::computing(model.recipe);
        let (loss_sum, _) = part("forward", || model.loss_sum(&tape, batch));
        if i + 1 == micro_batches.len() {
            // From here on each complete gradient is sent to the rank that updates with it.
            grads.reduce_into(optimizer.reduction(model));
        }
        // Adds to `grads` and frees the activations.
        part("backward", || tape.backward(&loss_sum, scale, &mut grads));
        losses.push(loss_sum);
    }
    let made = meanwhile();
    let grad_norm = part("optimizer", || optimizer.step(model, &mut grads, scheduled));
    // Read after everything is queued, since reading waits for the GPU.
    let loss: f32 = losses.iter().fold(0.0, |sum, loss| sum + scale * loss.item());
    let loss = sum(optimizer.comm(), f64::from(loss)) as f32;
    if !loss.is_finite() || !grad_norm.is_finite() {
        return Err(Diverged { loss, grad_norm });
    }
    Ok((StepResult { loss, grad_norm }, made))
}

/// Returns the sum over all ranks.
fn sum(comm: &Comm, value: f64) -> f64 {
    let mut values = [value];
    comm.sum_f64(&mut values);
    values[0]
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::Recipe;

    use super::*;
    use crate::model::config::GptConfig;
    use crate::model::gpt::Rates;

    /// For a d4 (vocabulary 4,096, T 512, B 8) on English text, the losses differ from those of f32 by the following
    /// relative amounts:
    ///
    /// | steps | 0–49 | 50–99 | 100–149 | 150–199 |
    /// |---|---|---|---|---|
    /// | mean | 5.7e-5 | 2.0e-4 | 2.5e-4 | 4.6e-4 |
    /// | largest | 2.0e-4 | 6.5e-4 | 1.0e-3 | 1.4e-3 |
    #[test]
    fn products_in_bf16_give_the_losses_of_f32_but_for_rounding() {
        let ids: Vec<u32> = (0..4 * 33).map(|i| i * i % 61).collect();
        let rows = |range: std::ops::Range<usize>| {
            ids.chunks(33).flat_map(|row| row[range.clone()].to_vec()).collect()
        };
        let batch =
            Batch { inputs: rows(0..32), targets: rows(1..33), weights: vec![1.0; 128], shape: [4, 32] };
        let losses = |recipe| -> Vec<f32> {
            let mut model = Gpt::init(GptConfig::from_depth(2, 61, 32).unwrap(), 1);
            model.recipe = recipe;
            let rates =
                Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
            let mut optimizer = Optimizer::new(&model, rates, 1.0, &Comm::alone());
            let scheduled = ScheduleValues { lr_multiplier: 0.3, muon_momentum: 0.95 };
            let mut loss =
                || step(&mut model, &mut optimizer, std::slice::from_ref(&batch), scheduled).unwrap().loss;
            (0..8).map(|_| loss()).collect()
        };
        let (want, got) = (losses(Recipe::F32), losses(Recipe::BF16_PRODUCTS));
        assert!(want[7] < 0.9 * want[0], "nothing was learned: {want:?}");
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 5e-3 * want, "{got} in bf16, {want} in f32");
        }
    }
}
