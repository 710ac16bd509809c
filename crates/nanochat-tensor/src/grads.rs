//! Gradients, and when they are complete.
//!
//! A weight may be used by several ops of a step. Its gradient is sent to the ranks after the last of these ops has run
//! backward: a sum that was sent earlier would miss the rest.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::elementwise;
use crate::reduction::Reduction;
use crate::simd;
use crate::tensor::{Target, Tensor, TensorId};

/// Gradients by tensor. Those of weights stay and are summed over micro-steps; those of activations are taken out as
/// backward passes over them.
#[derive(Default)]
pub struct Grads {
    sums: HashMap<TensorId, Tensor>,
    /// The number of ops on the current tape that have yet to add to a tensor's gradient. At 0 it is complete.
    uses: HashMap<TensorId, usize>,
    reduction: Option<Reduction>,
}

impl Grads {
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.sums.get(&tensor.id())
    }

    pub fn add(&mut self, tensor: &Tensor, grad: Tensor) {
        self.add_to(&tensor.target(), grad);
    }

    pub(crate) fn add_to(&mut self, target: &Target, grad: Tensor) {
        assert_eq!(target.len(), grad.len(), "gradient {:?} does not fit its tensor", grad.shape());
        self.assert_open(target.id);
        match self.sums.entry(target.id) {
            Entry::Vacant(slot) => {
                slot.insert(grad);
            }
            Entry::Occupied(mut slot) => elementwise::add_scaled(slot.get_mut(), &grad, 1.0, 1.0),
        }
    }

    /// Adds `factor · grad`. On the CPU a first gradient is scaled in place.
    pub(crate) fn add_scaled(&mut self, target: &Target, mut grad: Tensor, factor: f32) {
        if grad.gpu().is_none() && !self.sums.contains_key(&target.id) {
            simd::scale(grad.make_mut(), factor);
            return self.add_to(target, grad);
        }
        self.accumulate(target, |sum, beta| elementwise::add_scaled(sum, &grad, factor, beta));
    }

    /// Lends a tensor's gradient to a kernel that adds into it, so that a product can accumulate without a buffer of
    /// its own. `kernel(buffer, beta)` must add to the buffer with beta 1, and overwrite it with beta 0.
    pub(crate) fn accumulate(&mut self, target: &Target, kernel: impl FnOnce(&mut Tensor, f32)) {
        self.assert_open(target.id);
        match self.sums.entry(target.id) {
            Entry::Vacant(slot) => {
                let mut grad = target.fresh();
                kernel(&mut grad, 0.0);
                slot.insert(grad);
            }
            Entry::Occupied(mut slot) => kernel(slot.get_mut(), 1.0),
        }
    }

    /// Makes the next backward pass the last one: each gradient goes to `reduction` as soon as it is complete.
    pub fn reduce_into(&mut self, reduction: Reduction) {
        self.reduction = Some(reduction);
    }

    /// Removes and returns the gradient of an activation, for the op that made it.
    pub(crate) fn take_out(&mut self, id: TensorId) -> Option<Tensor> {
        self.sums.remove(&id)
    }

    /// Counts an op of the tape that will add to the gradients of `inputs`.
    pub(crate) fn count(&mut self, inputs: &[TensorId]) {
        inputs.iter().for_each(|id| *self.uses.entry(*id).or_default() += 1);
    }

    /// Counts down the uses of `inputs` after backward has passed an op, and hands over the gradients that are
    /// complete.
    pub(crate) fn count_down(&mut self, inputs: &[TensorId]) {
        for id in inputs {
            let uses = self.uses.get_mut(id).expect("ops of the tape under way are counted");
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(id);
                self.hand_over(*id);
            }
        }
    }

    fn hand_over(&mut self, id: TensorId) {
        let wanted = self.reduction.as_mut().filter(|reduction| reduction.wants(id));
        if let Some((reduction, grad)) = wanted.and_then(|to| Some((to, self.sums.remove(&id)?))) {
            reduction.take(id, grad);
        }
    }

    /// Checks that the gradient of `id` can still be added to.
    ///
    /// # Panics
    /// If it has been handed over: what is added now would be lost.
    fn assert_open(&self, id: TensorId) {
        let has_left = self.reduction.as_ref().is_some_and(|reduction| reduction.has_left(id));
        assert!(!has_left, "a gradient is added to after it was handed over");
    }

    /// Returns this rank's part of each bucket, summed over ranks. Gradients that have not been handed over are sent
    /// now, by a new `reduction` if none has begun.
    pub fn reduced(&mut self, reduction: impl FnOnce() -> Reduction) -> Vec<Tensor> {
        let mut reduction = self.reduction.take().unwrap_or_else(reduction);
        for id in reduction.missing() {
            if let Some(grad) = self.sums.remove(&id) {
                reduction.take(id, grad);
            }
        }
        reduction.finish()
    }
}
