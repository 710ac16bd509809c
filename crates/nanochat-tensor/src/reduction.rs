//! The reduction of gradients to the ranks that update with them (ZeRO-2, Rajbhandari et al. 2020).
//!
//! Weights are grouped in buckets of world · part values; each rank gets its part, summed over all ranks. Backward
//! hands over each gradient when it is complete, and a full bucket is sent at once, beside the rest of backward.
//! Buckets are sent in the order of their list, which must be the same on every rank.

use std::collections::{HashMap, HashSet};

use crate::comm::{Comm, Pending};
use crate::tensor::TensorId;
use crate::{Device, Tensor};

/// Weights whose gradients are sent together, one after another, with zeros behind them up to world · `part` values.
pub struct Bucket<'a> {
    pub weights: Vec<&'a Tensor>,
    pub part: usize,
}

/// The reduction of the gradients of one step.
pub struct Reduction {
    comm: Comm,
    device: Device,
    buckets: Vec<Filling>,
    /// The places of the gradients that have not come yet: the bucket, and the first value in it.
    places: HashMap<TensorId, (usize, usize)>,
    /// The weights whose gradients have come.
    taken: HashSet<TensorId>,
    weights: usize,
    /// The buckets that have been sent, the first ones of the list.
    sent: Vec<Pending>,
}

/// A bucket that is being filled with gradients.
struct Filling {
    len: usize,
    missing: usize,
    values: Option<Tensor>,
}

impl Reduction {
    pub fn new(comm: &Comm, device: &Device, buckets: &[Bucket]) -> Reduction {
        let mut places = HashMap::new();
        let filling = |(i, bucket): (usize, &Bucket)| {
            let mut at = 0;
            for weight in &bucket.weights {
                places.insert(weight.id(), (i, at));
                at += weight.len();
            }
            let len = bucket.part * comm.world_size();
            assert!(at <= len, "{at} values do not fit into a bucket of {len}");
            Filling { len, missing: bucket.weights.len(), values: None }
        };
        let buckets = buckets.iter().enumerate().map(filling).collect();
        let (comm, device) = (comm.clone(), device.clone());
        let (taken, sent) = (HashSet::new(), Vec::new());
        Reduction { comm, device, buckets, weights: places.len(), places, taken, sent }
    }

    pub(crate) fn wants(&self, id: TensorId) -> bool {
        self.places.contains_key(&id)
    }

    /// Whether the gradient of this weight has been taken.
    pub(crate) fn has_left(&self, id: TensorId) -> bool {
        self.taken.contains(&id)
    }

    /// Returns the weights whose gradients have not come, in the order of their buckets.
    pub(crate) fn missing(&self) -> Vec<TensorId> {
        let mut missing: Vec<_> = self.places.iter().collect();
        missing.sort_by_key(|(_, place)| **place);
        missing.into_iter().map(|(id, _)| *id).collect()
    }

    /// Takes the complete gradient of a weight on this rank, and sends the next buckets if they are full.
    pub(crate) fn take(&mut self, id: TensorId, grad: Tensor) {
        let (i, at) = self.places.remove(&id).expect("each gradient comes once");
        self.taken.insert(id);
        let bucket = &mut self.buckets[i];
        bucket.missing -= 1;
        if grad.len() == bucket.len {
            bucket.values = Some(grad); // fills the bucket alone: no copy
        } else {
            let values = bucket.values.get_or_insert_with(|| Tensor::zeros_on(&self.device, &[bucket.len]));
            values.write(at, &grad, 0..grad.len());
        }
        while self.buckets.get(self.sent.len()).is_some_and(|next| next.missing == 0) {
            self.send();
        }
    }

    fn send(&mut self) {
        let Filling { len, values, .. } = &mut self.buckets[self.sent.len()];
        let values = values.take().unwrap_or_else(|| Tensor::zeros_on(&self.device, &[*len]));
        self.sent.push(self.comm.reduce_scatter(values.reshape(&[*len])));
    }

    /// Sends the remaining buckets and returns this rank's part of each, summed over ranks. A rank without any gradient
    /// adds zeros.
    pub(crate) fn finish(mut self) -> Vec<Tensor> {
        let missing = self.places.len();
        assert!(
            [0, self.weights].contains(&missing),
            "{missing} of {} weights got no gradient",
            self.weights
        );
        while self.sent.len() < self.buckets.len() {
            self.send();
        }
        self.sent.into_iter().map(Pending::wait).collect()
    }
}
