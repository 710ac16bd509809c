//! Reverse-mode autograd over coarse ops: the forward pass pushes one closure per op, and backward pops them.

use crate::Recipe;
use crate::grads::Grads;
use crate::profile;
use crate::tensor::{Tensor, TensorId};
use std::any::type_name;
use std::cell::RefCell;

type Backward = Box<dyn FnOnce(Tensor, &mut Grads)>;

/// The ops of one forward pass, in order. Each op folder adds its method here in an `impl Tape`.
pub struct Tape {
    ops: RefCell<Vec<Recorded>>,
    mode: Mode,
    /// The types that ops compute in on the CPU; on a GPU they are those of [`Recipe::BF16`] always.
    pub(crate) recipe: Recipe,
}

/// How much a tape keeps of each op.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything that its backward needs.
    Record,
    /// Only the inputs that its backward will give a gradient: the op is recorded during backward (see
    /// [`Tape::recompute`]).
    Count,
    /// Nothing.
    Off,
}

struct Recorded {
    output: TensorId,
    shape: Vec<usize>,
    /// The tensors that its backward adds a gradient to, each as often as it does so.
    inputs: Vec<TensorId>,
    /// The type name of the closure, which contains the op's name.
    closure: &'static str,
    /// None if ops are only counted.
    backward: Option<Backward>,
}

impl Tape {
    pub fn new() -> Tape {
        Tape::computing(Recipe::F32)
    }

    /// Makes a tape that records and whose ops compute in these types.
    pub fn computing(recipe: Recipe) -> Tape {
        Tape { ops: RefCell::default(), mode: Mode::Record, recipe }
    }

    /// Makes a tape that records nothing, so that the same forward code serves evaluation and generation.
    pub fn off() -> Tape {
        Tape { ops: RefCell::default(), mode: Mode::Off, recipe: Recipe::F32 }
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.mode == Mode::Record
    }

    /// Records an op at the end of its forward. `backward` adds one gradient to each of the `inputs`; only what it
    /// captures is saved.
    pub(crate) fn record<F>(&self, output: &Tensor, inputs: &[&Tensor], backward: F)
    where
        F: FnOnce(&Tensor, &mut Grads) + 'static,
    {
        let inputs = inputs.iter().map(|input| input.id());
        self.push(output, inputs, type_name::<F>(), move |dy, grads| backward(&dy, grads));
    }

    /// Records an op like `record`, for a backward that takes ownership of dy.
    fn push(
        &self,
        output: &Tensor,
        inputs: impl Iterator<Item = TensorId>,
        closure: &'static str,
        backward: impl FnOnce(Tensor, &mut Grads) + 'static,
    ) {
        if self.mode == Mode::Off {
            return;
        }
        if self.is_recording() {
            profile::forward_done(closure);
        }
        let (output, shape, inputs) = (output.id(), output.shape().to_vec(), inputs.collect());
        let backward = self.is_recording().then(|| Box::new(backward) as Backward);
        self.ops.borrow_mut().push(Recorded { output, shape, inputs, closure, backward });
    }

    /// Returns `f(x)` and saves x alone: the ops of `f` run again in backward, just before their own backward (gradient
    /// checkpointing, Chen et al. 2016). `f` must give the same values both times.
    pub fn recompute(&self, x: &Tensor, f: impl Fn(&Tape, &Tensor) -> Tensor + 'static) -> Tensor {
        let recipe = self.recipe;
        let mode = if self.mode == Mode::Off { Mode::Off } else { Mode::Count };
        let counted = Tape { ops: RefCell::default(), mode, recipe };
        let y = f(&counted, x);
        let (x, inputs) = (x.clone(), counted.ops.into_inner().into_iter().flat_map(|op| op.inputs));
        self.push(&y, inputs, "recompute", move |dy, grads| {
            let tape = Tape::computing(recipe);
            let y = f(&tape, &x);
            grads.add(&y, dy);
            tape.unwind(grads, |_, _| ()); // the outer tape counts down the weights inside `f`
        });
        y
    }

    /// Adds d(scale · loss)/d(tensor) into `grads`. Consumes the tape, so that each saved activation is freed as soon
    /// as its op has run backward.
    pub fn backward(self, loss: &Tensor, scale: f32, grads: &mut Grads) {
        assert_eq!(loss.len(), 1, "backward starts at a scalar, found {:?}", loss.shape());
        grads.add(loss, Tensor::new(vec![scale], &[1]));
        self.ops.borrow().iter().for_each(|op| grads.count(&op.inputs));
        self.unwind(grads, Grads::count_down);
    }

    /// Runs the backward of every op that led to a gradient, the last op first. Calls `passed` with the inputs of each
    /// op, including ops whose output has no gradient.
    fn unwind(self, grads: &mut Grads, passed: impl Fn(&mut Grads, &[TensorId])) {
        for op in self.ops.into_inner().into_iter().rev() {
            if let Some(dy) = grads.take_out(op.output) {
                // A reshape keeps the id, so the gradient may have the shape of a later view.
                let begin = profile::backward_begins();
                let backward = op.backward.expect("a tape that counts is not unwound");
                backward(dy.reshape(&op.shape), grads);
                profile::backward_done(op.closure, begin);
            }
            passed(grads, &op.inputs);
        }
    }
}

impl Default for Tape {
    fn default() -> Self {
        Tape::new()
    }
}

#[cfg(test)]
mod tests;
