//! Muon for the matrices inside the blocks, AdamW for embedding and head (nanochat's split), shared out among ranks.
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
use serde::{Deserialize, Serialize};

use crate::gpt::{Gpt, Role};
use crate::values;
use shards::{Rule, Shard};
use update::Update;

/// Learning rates before the schedule. Those of embedding and head are for n_embd 768 and are scaled
/// by (n_embd / 768)^−½.
#[derive(Clone, Copy, Debug, clap::Args, Serialize, Deserialize)]
pub struct Rates {
    /// Learning rate of the matrices (Muon)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.02)]
    pub matrix_lr: f32,
    /// Learning rate of the embedding (AdamW)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.2)]
    pub embedding_lr: f32,
    /// Learning rate of the head (AdamW)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.004)]
    pub unembedding_lr: f32,
    /// Weight decay of embedding and head
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.0)]
    pub weight_decay: f32,
}

/// What the schedule says about one step.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub lr_multiplier: f32,
    pub muon_momentum: f32,
}

/// Both optimizers over all parameters of a model, as one of the ranks that train it.
pub struct Optimizer {
    comm: Comm,
    rates: Rates,
    /// Largest allowed global norm of the gradient; 0 is off.
    grad_clip: f32,
    /// Steps taken, for AdamW's bias correction.
    steps: u64,
    shards: Vec<Shard>,
    /// Of each shard what this rank remembers of its part, (part) each; nothing where it has none.
    memories: Vec<Vec<Tensor>>,
    /// Name and shape of every parameter.
    params: Vec<(String, Vec<usize>)>,
}

impl Optimizer {
    pub fn new(model: &Gpt, rates: Rates, grad_clip: f32, comm: &Comm) -> Optimizer {
        let dmodel_scale = (model.config.n_embd as f32 / 768.0).powf(-0.5);
        let rates = Rates {
            embedding_lr: rates.embedding_lr * dmodel_scale,
            unembedding_lr: rates.unembedding_lr * dmodel_scale,
            ..rates
        };
        let (shards, device) = (shards::shards(model, comm), model.device());
        let zeros = |shard: &Shard| {
            let names = if shard.mine.is_some() { shard.rule.memories() } else { &[] };
            names.iter().map(|_| Tensor::zeros_on(&device, &[shard.part])).collect()
        };
        let memories = shards.iter().map(zeros).collect();
        let params = model.params().into_iter().map(|(name, _, w)| (name, w.shape().to_vec())).collect();
        Optimizer { comm: comm.clone(), rates, grad_clip, steps: 0, shards, memories, params }
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
    pub fn step(&mut self, model: &mut Gpt, grads: &mut Grads, moment: Moment) -> f32 {
        let (device, compute) = (model.device(), model.compute);
        let grads = grads.reduced(|| shards::reduction(&self.shards, model, &self.comm));
        let clip = update::clip(&grads, self.grad_clip, &self.comm);
        self.steps += 1;
        let mut weights: Vec<Option<&mut Tensor>> =
            model.params_mut().into_iter().map(|(_, _, weight)| Some(weight)).collect();
        // AdamW's round comes first: its weights travel while matrices are orthogonalized.
        let mut rounds: BTreeMap<Rule, Vec<Update>> = BTreeMap::new();
        for ((shard, memories), grad) in self.shards.iter().zip(&mut self.memories).zip(grads) {
            let mine = shard.mine.as_ref();
            let weight = mine.and_then(|(param, range)| Some((weights[*param].take()?, range.clone())));
            let update = Update { shard, weight, grad, memories };
            rounds.entry(update::round(&shard.rule, &device)).or_default().push(update);
        }
        let mut gathering = Vec::with_capacity(self.shards.len());
        for (rule, mut updates) in rounds {
            update::update(&rule, &mut updates, &self.rates, self.steps, moment, &clip, compute);
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

impl Rates {
    /// Of what AdamW updates.
    fn of(&self, role: Role) -> f32 {
        if role == Role::Embedding { self.embedding_lr } else { self.unembedding_lr }
    }
}

#[cfg(test)]
mod tests;
