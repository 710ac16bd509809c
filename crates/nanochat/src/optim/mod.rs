//! The optimizers of a model's weights, Muon and AdamW as its parameter groups say (`gpt/groups.rs`), shared out among ranks.
//!
//! A checkpoint holds the state by parameter name, whole: it does not know how many ranks made it.

mod adamw;
mod muon;
mod newton_schulz;
mod shards;
mod state;
mod update;

use std::collections::BTreeMap;

use nanochat_tensor::{Comm, Grads, Reduction, Tensor};

use crate::gpt::{Gpt, Rates};
use shards::Shard;
use update::{Round, Update};

/// The values of the schedule at one step.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleValues {
    pub lr_multiplier: f32,
    pub muon_momentum: f32,
}

/// Both optimizers over all parameters of a model, as one of the ranks that train it.
pub struct Optimizer {
    comm: Comm,
    /// Largest allowed global norm of the gradient; 0 is off.
    grad_clip: f32,
    /// Steps taken, for AdamW's bias correction.
    steps: u64,
    shards: Vec<Shard>,
    /// This rank's part of the state of each shard, (part) each; empty where it updates nothing of it.
    state: Vec<Vec<Tensor>>,
    /// Name and shape of every parameter.
    params: Vec<(String, Vec<usize>)>,
}

impl Optimizer {
    pub fn new(model: &Gpt, rates: Rates, grad_clip: f32, comm: &Comm) -> Optimizer {
        let (shards, device) = (shards::shards(model, &rates, comm), model.device());
        let zeros = |shard: &Shard| {
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

    /// For the gradients of a step, to be summed over ranks while the last backward runs.
    pub fn reduction(&self, model: &Gpt) -> Reduction {
        shards::reduction(&self.shards, model, &self.comm)
    }

    /// Clips the gradient, updates every weight of `model`, and returns the norm before clipping. `grads` are of
    /// this rank's tokens; the norm and the update are of all ranks'.
    pub fn step(&mut self, model: &mut Gpt, grads: &mut Grads, scheduled: ScheduleValues) -> f32 {
        let (device, products) = (model.device(), model.recipe.products);
        let grads = grads.reduced(|| shards::reduction(&self.shards, model, &self.comm));
        let clip = update::clip(&grads, self.grad_clip, &self.comm);
        self.steps += 1;
        let mut weights: Vec<Option<&mut Tensor>> =
            model.params_mut().into_iter().map(|(_, _, weight)| Some(weight)).collect();
        let mut rounds: BTreeMap<Round, Vec<Update>> = BTreeMap::new();
        for ((shard, state), grad) in self.shards.iter().zip(&mut self.state).zip(grads) {
            let mine = shard.mine.as_ref();
            let weight = mine.and_then(|(param, range)| Some((weights[*param].take()?, range.clone())));
            let update = Update { shard, weight, grad, state };
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
