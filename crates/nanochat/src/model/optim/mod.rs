//! The optimizers of a model's weights: Muon and AdamW by parameter group (`gpt/groups.rs`), sharded over the ranks.
//!
//! A checkpoint holds the whole state by parameter name, independent of the number of ranks.

mod adamw;
mod muon;
mod newton_schulz;
mod shards;
mod state;
mod update;

use std::collections::BTreeMap;

use nanochat_tensor::{Comm, Grads, Reduction, Tensor};

use crate::model::gpt::{Gpt, Rates};
use shards::OptimizerShard;
use update::{Round, WeightUpdate};

/// The values of the schedule at one step.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleValues {
    pub lr_multiplier: f32,
    pub muon_momentum: f32,
}

/// The optimizer of all parameters of a model, as one rank runs it.
pub struct Optimizer {
    comm: Comm,
    /// The largest allowed global norm of the gradient; 0 turns clipping off.
    grad_clip: f32,
    /// The number of steps taken, for AdamW's bias correction.
    steps: u64,
    shards: Vec<OptimizerShard>,
    /// This rank's part of the state of each shard, (part) each; empty if it updates none of that shard.
    state: Vec<Vec<Tensor>>,
    /// The name and shape of every parameter.
    params: Vec<(String, Vec<usize>)>,
}

impl Optimizer {
    pub fn new(model: &Gpt, rates: Rates, grad_clip: f32, comm: &Comm) -> Optimizer {
        let (shards, device) = (shards::shards(model, &rates, comm), model.device());
        let zeros = |shard: &OptimizerShard| {
            let names = if shard.mine.is_some() { shard.group.rule.state_names() } else { &[] };
            names.iter().map(|_| Tensor::zeros_on(&device, &[shard.part])).collect()
        };
        let state = shards.iter().map(zeros).collect();
        let params = model.params().into_iter().map(|(name, _, w)| (name, w.shape().to_vec())).collect();
        Optimizer { comm: comm.clone(), grad_clip, steps: 0, shards, state, params }
    }

    pub fn comm(&self) -> &Comm {
        &self.comm
    }

    /// Returns the reduction that sums the gradients of a step over the ranks while the last backward pass runs.
    pub fn reduction(&self, model: &Gpt) -> Reduction {
        shards::reduction(&self.shards, model, &self.comm)
    }

    /// Clips the gradient, updates every weight of `model`, and returns the norm before clipping. `grads` come from
    /// this rank's tokens; the norm and the update use those of all ranks.
    pub fn step(&mut self, model: &mut Gpt, grads: &mut Grads, scheduled: ScheduleValues) -> f32 {
        let (device, products) = (model.device(), model.recipe.products);
        let grads = grads.reduced(|| shards::reduction(&self.shards, model, &self.comm));
        let clip = update::clip(&grads, self.grad_clip, &self.comm);
        self.steps += 1;
        let mut weights: Vec<Option<&mut Tensor>> =
            model.params_mut().into_iter().map(|(_, _, weight)| Some(weight)).collect();
        let mut rounds: BTreeMap<Round, Vec<WeightUpdate>> = BTreeMap::new();
        for ((shard, state), grad) in self.shards.iter().zip(&mut self.state).zip(grads) {
            let mine = shard.mine.as_ref();
            let weight = mine.and_then(|(param, range)| Some((weights[*param].take()?, range.clone())));
            let update = WeightUpdate { shard, weight, grad, state };
            rounds.entry(Round::of(shard, &device)).or_default().push(update);
        }
        let mut gathering = Vec::with_capacity(self.shards.len());
        for mut updates in rounds.into_values() {
            update::update(&mut updates, self.steps, scheduled, &clip, products);
            for update in updates {
                let shard = update.shard;
                gathering.push((shard, self.comm.all_gather(update.updated_part(&device))));
            }
        }
        for (shard, gathered) in gathering {
            let gathered = gathered.wait();
            if self.comm.world_size() > 1 {
                shard.spread(&gathered, model);
            }
        }
        clip.host()[0]
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }
}

#[cfg(test)]
mod tests;
