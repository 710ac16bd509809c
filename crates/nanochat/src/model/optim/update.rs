//! Runs the updates on the device of the weights: in loops on the CPU, in kernels of `nanochat_tensor::optim` on a GPU.

use std::ops::Range;

use nanochat_tensor::optim::{self, Muon, MuonParam};
use nanochat_tensor::{Comm, Device, Dtype, Tensor, simd};
use rayon::prelude::*;

use super::newton_schulz::{NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS};
use super::shards::OptimizerShard;
use super::{ScheduleValues, adamw, muon};
use crate::model::gpt::{Rule, WeightRole};

/// This rank's part of a shard.
pub struct WeightUpdate<'s, 'w> {
    pub shard: &'s OptimizerShard,
    /// The weight and the range of its values to update; None if this rank updates none of the shard.
    pub weight: Option<(&'w mut Tensor, Range<usize>)>,
    /// The gradient of the part, of shape (part).
    pub grad: Tensor,
    /// The optimizer state of the part: tensors of shape (part).
    pub state: &'w mut [Tensor],
}

impl WeightUpdate<'_, '_> {
    /// Returns the updated values (part) to send to the other ranks: shared if they are a whole weight, else copied.
    pub fn updated_part(self, device: &Device) -> Tensor {
        let part = self.shard.part;
        match self.weight {
            Some((weight, range)) if range.len() == part && weight.len() == part => weight.reshape(&[part]),
            weight => {
                let mut values = Tensor::zeros_on(device, &[part]);
                if let Some((weight, range)) = weight {
                    values.write(0, weight, range);
                }
                values
            }
        }
    }
}

/// Returns a tensor (2) of the global norm of the gradient, and the factor that reduces it to at most `limit` (0: no
/// limit). Each rank gives the `parts` it has. A GPU keeps both numbers in its memory, so that no step waits for them.
pub fn clip(parts: &[Tensor], limit: f32, comm: &Comm) -> Tensor {
    if let Device::Gpu(_) = parts[0].device() {
        let squares = comm.all_reduce(optim::sum_of_squares(parts)).wait();
        return optim::clip_factor(&squares, limit);
    }
    let mut squares = [parts.iter().map(|part| simd::sum_of_squares(part.data())).sum()];
    comm.sum_f64(&mut squares);
    let norm = squares[0].sqrt() as f32;
    let factor = if limit > 0.0 && norm > limit { limit / norm } else { 1.0 };
    Tensor::new(vec![norm, factor], &[2])
}

/// A group of updates that run together. AdamW's come first: its weights are sent while matrices are orthogonalized.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub enum Round {
    AdamW,
    /// Muon's updates: on a GPU those of one role and shape, orthogonalized as one batch; on the CPU (None) all.
    Muon(Option<(WeightRole, Vec<usize>)>),
}

impl Round {
    /// Returns the round of a shard. On the CPU one thread per matrix is faster than threads inside each, so all run
    /// together.
    pub fn of(shard: &OptimizerShard, device: &Device) -> Round {
        match (&shard.matrix, device) {
            (None, _) => Round::AdamW,
            (Some(_), Device::Cpu) => Round::Muon(None),
            (Some(shape), Device::Gpu(_)) => Round::Muon(Some((shard.role, shape.clone()))),
        }
    }
}

/// Does the updates of one round of step `steps`, counted from 1.
pub fn update(
    updates: &mut [WeightUpdate],
    steps: u64,
    scheduled: ScheduleValues,
    clip: &Tensor,
    products: Dtype,
) {
    let Some(first) = updates.first() else { return };
    match first.shard.group.rule {
        Rule::AdamW { betas, eps } => {
            for update in updates {
                let group = &update.shard.group;
                let (lr, weight_decay) = (group.lr * scheduled.lr_multiplier, group.weight_decay);
                adamw_step(update, adamw::AdamWStep { lr, weight_decay, betas, eps, step: steps }, clip);
            }
        }
        Rule::Muon => muon_step(updates, scheduled, clip, products),
    }
}

fn adamw_step(update: &mut WeightUpdate, step: adamw::AdamWStep, clip: &Tensor) {
    let (Some((weight, range)), [exp_avg, exp_avg_sq]) = (&mut update.weight, &mut *update.state) else {
        return;
    };
    let (range, n) = (range.clone(), range.len());
    match weight.device() {
        Device::Cpu => step.apply(
            &mut weight.data_mut()[range],
            &update.grad.data()[..n],
            clip.data()[1],
            &mut exp_avg.data_mut()[..n],
            &mut exp_avg_sq.data_mut()[..n],
        ),
        Device::Gpu(_) => {
            optim::adamw(weight, range, (exp_avg, exp_avg_sq), &update.grad, clip, step.constants());
        }
    }
}

/// Matrices of one round. Where it is a GPU's, they are of one group.
fn muon_step(updates: &mut [WeightUpdate], scheduled: ScheduleValues, clip: &Tensor, products: Dtype) {
    let mut params = Vec::with_capacity(updates.len());
    for WeightUpdate { shard, weight, grad, state } in updates {
        if let Some((weight, _)) = weight {
            let lr = shard.group.lr * scheduled.lr_multiplier;
            params.push((lr, MuonParam { weight, grad, momentum_buffer: &mut state[0] }));
        }
    }
    let Some((lr, _)) = params.first() else { return };
    match clip.device() {
        Device::Cpu => {
            params.into_par_iter().for_each(|(lr, MuonParam { weight, grad, momentum_buffer })| {
                let momentum = scheduled.muon_momentum;
                muon::update(
                    weight,
                    grad.data(),
                    clip.data()[1],
                    momentum_buffer.data_mut(),
                    lr,
                    momentum,
                    products,
                );
            })
        }
        Device::Gpu(_) => {
            let (lr, momentum) = (*lr, scheduled.muon_momentum);
            let (newton_schulz, newton_schulz_steps) = (NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS);
            let step = Muon { lr, momentum, newton_schulz, newton_schulz_steps };
            optim::muon(params.into_iter().map(|(_, param)| param).collect(), clip, step);
        }
    }
}
