//! Reverse-mode autograd over coarse ops: forward pushes one closure per op, backward pops them.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::gemm::Compute;
use crate::ops::elementwise;
use crate::profile;
use crate::reduction::Reduction;
use crate::simd;
use crate::tensor::{Target, Tensor, TensorId};

type Backward = Box<dyn FnOnce(Tensor, &mut Grads)>;

/// The ops of one forward pass, in order. Each op folder adds its method here in an `impl Tape`.
pub struct Tape {
    ops: RefCell<Vec<Recorded>>,
    recording: bool,
    /// How products are computed on the CPU; on a GPU it is bf16 always.
    pub(crate) compute: Compute,
}

struct Recorded {
    output: TensorId,
    shape: Vec<usize>,
    /// The type of the closure, which tells the op's name.
    closure: &'static str,
    backward: Backward,
}

/// Gradients by tensor. Those of weights stay and sum over micro-steps; those of activations are
/// taken out as backward passes over them.
#[derive(Default)]
pub struct Grads {
    sums: HashMap<TensorId, Tensor>,
    reduction: Option<Reduction>,
}

impl Tape {
    pub fn new() -> Tape {
        Tape::computing(Compute::F32)
    }

    /// As `new`, with products in this precision.
    pub fn computing(compute: Compute) -> Tape {
        Tape { ops: RefCell::default(), recording: true, compute }
    }

    /// Records nothing: the same forward code serves evaluation and generation.
    pub fn off() -> Tape {
        Tape { ops: RefCell::default(), recording: false, compute: Compute::F32 }
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.recording
    }

    /// Called by an op at the end of its forward. What the closure captures is what is saved.
    pub(crate) fn record<F: FnOnce(&Tensor, &mut Grads) + 'static>(&self, output: &Tensor, backward: F) {
        self.push(output, type_name::<F>(), move |dy, grads| backward(&dy, grads));
    }

    /// As `record`, for a backward that wants dy for itself.
    fn push(
        &self,
        output: &Tensor,
        closure: &'static str,
        backward: impl FnOnce(Tensor, &mut Grads) + 'static,
    ) {
        if self.recording {
            profile::forward_done(closure);
            let (output, shape) = (output.id(), output.shape().to_vec());
            self.ops.borrow_mut().push(Recorded { output, shape, closure, backward: Box::new(backward) });
        }
    }

    /// `f(x)`, of which x alone is kept: its ops are run again in backward, and then gone through
    /// (gradient checkpointing, Chen et al. 2016). `f` must give the same values both times.
    pub fn recompute(&self, x: &Tensor, f: impl Fn(&Tape, &Tensor) -> Tensor + 'static) -> Tensor {
        let compute = self.compute;
        let y = f(&Tape { compute, ..Tape::off() }, x);
        let x = x.clone();
        self.push(&y, "recompute", move |dy, grads| {
            let tape = Tape::computing(compute);
            let y = f(&tape, &x);
            grads.add(&y, dy);
            tape.unwind(grads);
        });
        y
    }

    /// Adds d(scale · loss)/d(tensor) into `grads`. Consumes the tape, so every saved activation is
    /// freed as soon as the op that saved it has run backward.
    pub fn backward(self, loss: &Tensor, scale: f32, grads: &mut Grads) {
        assert_eq!(loss.len(), 1, "backward starts at a scalar, found {:?}", loss.shape());
        grads.add(loss, Tensor::new(vec![scale], &[1]));
        self.unwind(grads);
    }

    /// Runs every op that led to a gradient backward, the last one first.
    fn unwind(self, grads: &mut Grads) {
        for op in self.ops.into_inner().into_iter().rev() {
            if let Some(dy) = grads.sums.remove(&op.output) {
                // A reshape keeps the id, so the gradient may come in the shape of a later view.
                let begin = profile::backward_begins();
                (op.backward)(dy.reshape(&op.shape), grads);
                profile::backward_done(op.closure, begin);
            }
        }
    }
}

impl Default for Tape {
    fn default() -> Self {
        Tape::new()
    }
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
        match self.sums.entry(target.id) {
            Entry::Vacant(slot) => {
                slot.insert(grad);
            }
            Entry::Occupied(mut slot) => elementwise::add_scaled(slot.get_mut(), &grad, 1.0, 1.0),
        }
        self.hand_over(target.id);
    }

    /// Adds `factor · grad`. On the CPU a first gradient is scaled where it lies.
    pub(crate) fn add_scaled(&mut self, target: &Target, mut grad: Tensor, factor: f32) {
        if grad.gpu().is_none() && !self.sums.contains_key(&target.id) {
            simd::scale(grad.make_mut(), factor);
            return self.add_to(target, grad);
        }
        self.accumulate(target, |sum, beta| elementwise::add_scaled(sum, &grad, factor, beta));
    }

    /// Lends the gradient of a tensor to a kernel that adds into it, so that a product can accumulate
    /// (beta = 1) without a buffer of its own. `kernel(buffer, beta)`: beta 0 finds anything at all, to be
    /// overwritten.
    pub(crate) fn accumulate(&mut self, target: &Target, kernel: impl FnOnce(&mut Tensor, f32)) {
        match self.sums.entry(target.id) {
            Entry::Vacant(slot) => {
                let mut grad = target.fresh();
                kernel(&mut grad, 0.0);
                slot.insert(grad);
            }
            Entry::Occupied(mut slot) => kernel(slot.get_mut(), 1.0),
        }
        self.hand_over(target.id);
    }

    /// What backward adds to the gradient of a weight from here on completes it: it goes to `reduction` at once.
    /// To be called before the last micro-step's backward.
    pub fn reduce_into(&mut self, reduction: Reduction) {
        self.reduction = Some(reduction);
    }

    fn hand_over(&mut self, id: TensorId) {
        if let Some(reduction) = self.reduction.as_mut().filter(|reduction| reduction.wants(id)) {
            reduction.take(id, self.sums.remove(&id).expect("it has just been added to"));
        }
    }

    /// This rank's parts of all gradients, one for each bucket, summed over ranks. Gradients that have not been
    /// handed over leave now, by `reduction` if none is under way.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::EPS;
    use crate::testing::{gpu, randn};

    fn branch(tape: &Tape, x: &Tensor, w: &Tensor) -> Tensor {
        tape.mlp(x, &tape.rms_norm(x, EPS), w, w)
    }

    /// Two branches in a row, each recorded or recomputed.
    fn chain(tape: &Tape, x: &Tensor, w: &Tensor, recomputed: bool) -> Tensor {
        let step = |x: &Tensor| match recomputed {
            false => branch(tape, x, w),
            true => {
                let w = w.clone();
                tape.recompute(x, move |tape, x| branch(tape, x, &w))
            }
        };
        step(&step(&tape.linear(x, w)))
    }

    fn assert_recomputing_changes_no_bit(device: &Device) {
        let on_device = |shape: &[usize], seed| randn(shape, seed).to_device(device);
        let (x, w) = (on_device(&[40, 64], 0).to_activation(), on_device(&[64, 64], 1));
        let run = |recomputed| {
            let (tape, mut grads) = (Tape::new(), Grads::default());
            let y = chain(&tape, &x, &w, recomputed);
            grads.add(&y, on_device(&[40, 64], 2).to_activation());
            tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads);
            [&y, grads.get(&x).unwrap(), grads.get(&w).unwrap()].map(|t| t.host().into_owned())
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn recomputing_changes_no_bit_of_values_and_gradients() {
        assert_recomputing_changes_no_bit(&Device::Cpu);
    }

    #[test]
    fn recomputing_changes_no_bit_on_the_gpu() {
        let Some(device) = gpu() else { return };
        assert_recomputing_changes_no_bit(&device);
    }

    #[test]
    fn a_recomputed_branch_keeps_its_input_alone() {
        let (x, w) = (randn(&[6, 16], 0), randn(&[16, 16], 1));
        for (recomputed, ops) in [(false, 5), (true, 3)] {
            let tape = Tape::new();
            chain(&tape, &x, &w, recomputed);
            assert_eq!(tape.ops.borrow().len(), ops);
        }
    }
}
