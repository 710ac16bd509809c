//! The updates where the weights lie: in loops on the CPU, in kernels of `nanochat_tensor::optim` on a GPU.

use std::ops::Range;

use nanochat_tensor::optim::{self, Muon, MuonParam};
use nanochat_tensor::{Comm, Compute, Device, Tensor, simd};
use rayon::prelude::*;

use super::newton_schulz::{NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS};
use super::shards::{Rule, Shard};
use super::{Moment, Rates, adamw, muon};

/// This rank's part of a shard.
pub struct Update<'s, 'w> {
    pub shard: &'s Shard,
    /// Which values of which weight; None where the shard has nothing for this rank.
    pub weight: Option<(&'w mut Tensor, Range<usize>)>,
    /// (part)
    pub grad: Tensor,
    /// (part) each
    pub memories: &'w mut [Tensor],
}

impl Update<'_, '_> {
    /// The values that other ranks are to have, (part): shared where they are a whole weight, else copied.
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

/// The norm of all gradients, of which each rank has `parts`, and what is left to multiply them by so that it is
/// `limit` (0: no limit) at most: (2). On a GPU both stay there: no step waits for a number.
pub fn clip(parts: &[Tensor], limit: f32, comm: &Comm) -> Tensor {
    if let Device::Cuda(_) = parts[0].device() {
        let squares = comm.all_reduce(optim::sum_of_squares(parts)).wait();
        return optim::clip_factor(&squares, limit);
    }
    let mut squares = [parts.iter().map(|part| simd::sum_of_squares(part.data())).sum()];
    comm.sum_f64(&mut squares);
    let norm = squares[0].sqrt() as f32;
    let factor = if limit > 0.0 && norm > limit { limit / norm } else { 1.0 };
    Tensor::new(vec![norm, factor], &[2])
}

/// Updates that go together: alike ones, which a GPU does best in one go; on the CPU all of Muon's, where a thread
/// for each matrix beats threads inside each.
pub fn round(rule: &Rule, device: &Device) -> Rule {
    match (rule, device) {
        (Rule::Muon(_), Device::Cpu) => Rule::Muon(Vec::new()),
        _ => rule.clone(),
    }
}

/// Does the updates of one round.
pub fn update(
    rule: &Rule,
    updates: &mut [Update],
    rates: &Rates,
    steps: u64,
    moment: Moment,
    clip: &Tensor,
    compute: Compute,
) {
    match rule {
        Rule::AdamW => updates.iter_mut().for_each(|update| adamw_step(update, rates, steps, moment, clip)),
        Rule::Muon(_) => muon_step(updates, rates.matrix_lr * moment.lr_multiplier, moment, clip, compute),
    }
}

fn adamw_step(update: &mut Update, rates: &Rates, steps: u64, moment: Moment, clip: &Tensor) {
    let step = adamw::Step {
        lr: rates.of(update.shard.role) * moment.lr_multiplier,
        weight_decay: rates.weight_decay,
        step: steps,
    };
    let (Some((weight, range)), [exp_avg, exp_avg_sq]) = (&mut update.weight, &mut *update.memories) else {
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
        Device::Cuda(_) => {
            optim::adamw(weight, range, (exp_avg, exp_avg_sq), &update.grad, clip, step.constants());
        }
    }
}

fn muon_step(updates: &mut [Update], lr: f32, moment: Moment, clip: &Tensor, compute: Compute) {
    let mut params = Vec::with_capacity(updates.len());
    for Update { weight, grad, memories, .. } in updates {
        if let Some((weight, _)) = weight {
            params.push(MuonParam { weight, grad, momentum_buffer: &mut memories[0] });
        }
    }
    match clip.device() {
        Device::Cpu => params.into_par_iter().for_each(|MuonParam { weight, grad, momentum_buffer }| {
            muon::update(
                weight,
                grad.data(),
                clip.data()[1],
                momentum_buffer.data_mut(),
                lr,
                moment.muon_momentum,
                compute,
            );
        }),
        Device::Cuda(_) => {
            let (newton_schulz, newton_schulz_steps) = (NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS);
            let step = Muon { lr, momentum: moment.muon_momentum, newton_schulz, newton_schulz_steps };
            optim::muon(params, clip, step);
        }
    }
}
