//! Test helpers: random inputs, and analytic gradients against central differences.

use crate::{Grads, Rng, Tape, Tensor};

pub fn randn(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(&[seed]);
    Tensor::new((0..shape.iter().product()).map(|_| rng.normal()).collect(), shape)
}

/// Checks every input of `f` through the scalar sum(w · f(inputs)) with fixed random w.
#[track_caller]
pub fn gradcheck(inputs: &[Tensor], f: impl Fn(&Tape, &[Tensor]) -> Tensor) {
    let objective = |inputs: &[Tensor]| -> f64 {
        let y = f(&Tape::off(), inputs);
        let w = randn(y.shape(), 99);
        y.data().iter().zip(w.data()).map(|(y, w)| f64::from(y * w)).sum()
    };
    let tape = Tape::new();
    let y = f(&tape, inputs);
    let mut grads = Grads::default();
    grads.add(&y, randn(y.shape(), 99));
    tape.backward(&Tensor::new(vec![0.0], &[1]), 0.0, &mut grads);

    let h = 1e-2;
    for (n, input) in inputs.iter().enumerate() {
        let analytic = grads.get(input).unwrap_or_else(|| panic!("input {n} got no gradient"));
        for i in 0..input.len() {
            let nudged = |delta: f32| {
                let mut inputs = inputs.to_vec();
                let mut data = input.data().to_vec();
                data[i] += delta;
                inputs[n] = Tensor::new(data, input.shape());
                objective(&inputs)
            };
            let numeric = (nudged(h) - nudged(-h)) / (2.0 * f64::from(h));
            let got = f64::from(analytic.data()[i]);
            let bound = 1e-2 * (1.0 + numeric.abs());
            assert!((got - numeric).abs() < bound, "input {n}[{i}]: {got} vs {numeric}");
        }
    }
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "[{i}]: {got} vs {want}");
    }
}
