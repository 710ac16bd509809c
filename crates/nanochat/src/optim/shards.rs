//! Who updates what (ZeRO-2, Rajbhandari et al. 2020): every rank has all weights, and the optimizer's state of its
//! own part of them.
//!
//! A shard is dealt out in equal parts, one for each rank. Muon needs a matrix whole, so its shards are as many matrices
//! of one shape as there are ranks, or the few that are left. All else is cut in slices.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use nanochat_tensor::{Bucket, Comm, Reduction, Tensor};

use crate::gpt::{Gpt, ParamGroup, Rates, Rule, WeightRole};

/// What is updated, summed and gathered together.
pub struct Shard {
    /// Numbers of its weights in `Gpt::params`, one behind the other.
    pub params: Vec<usize>,
    pub role: WeightRole,
    pub group: ParamGroup,
    /// The shape of its matrices, if they are updated whole.
    pub matrix: Option<Vec<usize>>,
    /// Values that each rank has of it. What the weights do not fill is 0.
    pub part: usize,
    /// What this rank updates: some values of a weight, with which its part begins.
    pub mine: Option<(usize, Range<usize>)>,
}

impl Shard {
    /// Where each of its weights lies in it.
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

    /// Puts the updated weights of all ranks, (world · part), into the model.
    pub fn spread(&self, gathered: &Tensor, model: &mut Gpt) {
        let mut weights: Vec<&mut Tensor> = model.params_mut().into_iter().map(|(_, _, w)| w).collect();
        let lens: Vec<usize> = weights.iter().map(|weight| weight.len()).collect();
        for (param, place) in self.places(|param| lens[param]) {
            weights[param].write(0, gathered, place);
        }
    }
}

/// The shards of a model, in the order in which backward completes their gradients. On every rank the same but
/// for what is `mine`.
pub fn shards(model: &Gpt, rates: &Rates, comm: &Comm) -> Vec<Shard> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let (params, mut shards) = (model.params(), Vec::new());
    let group = |role: WeightRole| role.group(&model.config, rates);
    let mut alike: BTreeMap<(WeightRole, Vec<usize>), Vec<usize>> = BTreeMap::new();
    let matrices = |(role, shape): (WeightRole, Vec<usize>), params: Vec<usize>| {
        let part = shape.iter().product();
        let mine = params.get(rank).map(|&param| (param, 0..part));
        Shard { params, role, group: group(role), matrix: Some(shape), part, mine }
    };
    // Backward comes to the last ones first.
    for (param, (_, role, weight)) in params.iter().enumerate().rev() {
        match role.rule() {
            Rule::AdamW { .. } => {
                let part = weight.len().div_ceil(world);
                let slice = (rank * part).min(weight.len())..((rank + 1) * part).min(weight.len());
                let mine = (!slice.is_empty()).then_some((param, slice));
                let (params, role, group) = (vec![param], *role, group(*role));
                shards.push(Shard { params, role, group, matrix: None, part, mine });
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

/// Sums the gradients of a step over ranks, shard by shard.
pub fn reduction(shards: &[Shard], model: &Gpt, comm: &Comm) -> Reduction {
    let params = model.params();
    let bucket = |shard: &Shard| Bucket {
        weights: shard.params.iter().map(|&param| params[param].2).collect(),
        part: shard.part,
    };
    Reduction::new(comm, &model.device(), &shards.iter().map(bucket).collect::<Vec<_>>())
}
