use super::*;
use crate::Device;
use crate::ops::EPS;
use crate::testing::{gpu, randn};

fn branch(tape: &Tape, x: &Tensor, w: &Tensor) -> Tensor {
    tape.mlp(x, &tape.rms_norm(x, EPS), w, w)
}

/// Runs two branches in a row, each recorded or recomputed.
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
