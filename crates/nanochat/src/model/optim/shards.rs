//! The sharding of the optimizer (ZeRO-2, Rajbhandari et al. 2020): every rank has all weights, and the optimizer state
//! of its own part of them.
//!
//! A shard is divided into equal parts, one per rank. Muon needs whole matrices, so each of its shards has one matrix
//! for every rank, all of one shape; the last shard of a shape may have fewer. Every other weight is a shard of its
//! own, cut into slices.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use nanochat_tensor::{Bucket, Comm, Reduction, Tensor};

use crate::model::gpt::{Gpt, ParamGroup, Rates, Rule, WeightRole};

/// The weights that are reduced, updated and gathered together.
pub struct OptimizerShard {
    /// The indices of its weights in `Gpt::params`, concatenated in this order.
    pub params: Vec<usize>,
    pub role: WeightRole,
    pub group: ParamGroup,
    /// The shape of its matrices, if they are updated whole.
    pub matrix: Option<Vec<usize>>,
    /// The number of values in each rank's part, padded with zeros.
    pub part: usize,
    /// The values that this rank updates: a range of one weight, at the start of its part.
    pub mine: Option<(usize, Range<usize>)>,
}

impl OptimizerShard {
    /// Returns the index of each of its weights, with the range of the shard's values that it takes.
    /// `len` returns the number of values of a weight.
    pub fn places<'a>(
        &'a self,
        len: impl Fn(usize) -> usize + 'a,
    ) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.params.iter().scan(0, move |at, &param| {
            let place = *at..*at + len(param);
            *at = place.end;
            Some((param, place))
        })
    }

    /// Copies the updated weights of all ranks, (world · part), into the model.
    pub fn spread(&self, gathered: &Tensor, model: &mut Gpt) {
        let mut weights: Vec<&mut Tensor> = model.params_mut().into_iter().map(|(_, _, w)| w).collect();
        let lens: Vec<usize> = weights.iter().map(|weight| weight.len()).collect();
        for (param, place) in self.places(|param| lens[param]) {
            weights[param].write(0, gathered, place);
        }
    }
}

/// Returns the shards of a model, in the order in which the backward pass completes their gradients. They are the same
/// on every rank, except for `mine`.
pub fn shards(model: &Gpt, rates: &Rates, comm: &Comm) -> Vec<OptimizerShard> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let (params, mut shards) = (model.params(), Vec::new());
    let group = |role: WeightRole| role.group(&model.config, rates);
    let mut alike: BTreeMap<(WeightRole, Vec<usize>), Vec<usize>> = BTreeMap::new();
    let matrices = |(role, shape): (WeightRole, Vec<usize>), params: Vec<usize>| {
        let part = shape.iter().product();
        let mine = params.get(rank).map(|&param| (param, 0..part));
        OptimizerShard { params, role, group: group(role), matrix: Some(shape), part, mine }
    };
    // The backward pass completes the last weights first.
    for (param, (_, role, weight)) in params.iter().enumerate().rev() {
        match role.rule() {
            Rule::AdamW { .. } => {
                let part = weight.len().div_ceil(world);
                let slice = (rank * part).min(weight.len())..((rank + 1) * part).min(weight.len());
                let mine = (!slice.is_empty()).then_some((param, slice));
                let (params, role, group) = (vec![param], *role, group(*role));
                shards.push(OptimizerShard { params, role, group, matrix: None, part, mine });
            }
            Rule::Muon => {
                let key = (*role, weight.shape().to_vec());
                let waiting = alike.entry(key.clone()).or_default();
                waiting.push(param);
                if waiting.len() == world {
                    shards.push(matrices(key, std::mem::take(waiting)));
                }
            }
        }
    }
    let left = alike.into_iter().filter(|(_, params)| !params.is_empty());
    shards.extend(left.map(|(key, params)| matrices(key, params)));
    shards.sort_by_key(|shard| Reverse(shard.params.last().copied()));
    shards
}

/// Returns the reduction that sums the gradients of a step over the ranks, shard by shard.
pub fn reduction(shards: &[OptimizerShard], model: &Gpt, comm: &Comm) -> Reduction {
    let params = model.params();
    let bucket = |shard: &OptimizerShard| Bucket {
        weights: shard.params.iter().map(|&param| params[param].2).collect(),
        part: shard.part,
    };
    Reduction::new(comm, &model.device(), &shards.iter().map(bucket).collect::<Vec<_>>())
}
