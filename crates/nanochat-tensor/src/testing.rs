//! Test helpers: random inputs, analytic gradients against central differences, the GPU against the CPU.

use std::sync::OnceLock;

use crate::{Device, Grads, Rng, Tape, Tensor};

pub fn randn(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(&[seed]);
    Tensor::new((0..shape.iter().product()).map(|_| rng.normal()).collect(), shape)
}

/// Checks the gradient of every input of `f` by central differences of the scalar sum(w · f(inputs)), with fixed random
/// w.
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

/// Prints that a test was skipped; fails instead if the variable `required` is set.
pub fn skip(why: &str, required: &str) {
    assert!(std::env::var_os(required).is_none(), "{why}, and {required} is set");
    println!("skipped: {why}");
}

/// Returns the GPU if there is one; else prints that the test was skipped.
pub fn gpu() -> Option<Device> {
    static GPU: OnceLock<Result<Device, String>> = OnceLock::new();
    let device = GPU.get_or_init(|| Device::cuda(0).map_err(|e| e.to_string()));
    device.as_ref().inspect_err(|error| skip(error, "NANOCHAT_REQUIRE_GPU")).ok().cloned()
}

/// Returns the GPU like `gpu`, with a stream that no other test has.
pub fn gpu_alone() -> Option<Device> {
    gpu().map(|_| Device::cuda(0).expect("it has been opened before"))
}

/// The tolerance for bf16, which has seven bits of mantissa, over sums of many terms.
pub const BF16_TOLERANCE: f32 = 1e-2;

/// Checks output and gradients of `f` on the GPU against the CPU, by ‖gpu − cpu‖ / ‖cpu‖. `inputs` are rounded to bf16
/// for both, so that only the arithmetic differs; the first `activations` of them are bf16 on the GPU, the rest float32
/// weights. Gradients of two passes are summed, so that accumulation is tested too.
#[track_caller]
pub fn assert_gpu_agrees(inputs: &[Tensor], activations: usize, f: impl Fn(&Tape, &[Tensor]) -> Tensor) {
    let Some(device) = gpu() else { return };
    let inputs: Vec<Tensor> = inputs.iter().map(rounded).collect();
    let on_gpu = |(i, x): (usize, &Tensor)| {
        let x = x.to_device(&device);
        if i < activations { x.to_activation() } else { x }
    };
    let gpu_inputs: Vec<Tensor> = inputs.iter().enumerate().map(on_gpu).collect();
    let run = |inputs: &[Tensor], device: &Device| {
        let mut grads = Grads::default();
        let mut outputs = Vec::new();
        for _ in 0..2 {
            let tape = Tape::new();
            let y = f(&tape, inputs);
            grads.add(&y, rounded(&randn(y.shape(), 99)).to_device(device).to_activation());
            tape.backward(&Tensor::new(vec![0.0], &[1]), 0.0, &mut grads);
            outputs.push(y);
        }
        let grads = inputs.iter().map(|input| grads.get(input).expect("input got no gradient").clone());
        outputs.into_iter().chain(grads).collect::<Vec<Tensor>>()
    };
    let (want, got) = (run(&inputs, &Device::Cpu), run(&gpu_inputs, &device));
    for (n, (want, got)) in want.iter().zip(&got).enumerate() {
        let name = if n < 2 { "output".to_string() } else { format!("gradient of input {}", n - 2) };
        assert_relative(&name, &got.host(), want.data(), BF16_TOLERANCE);
    }
}

/// Checks that ‖got − want‖ ≤ tolerance · ‖want‖; fails for NaN.
#[track_caller]
pub fn assert_relative(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}: lengths differ");
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(got, want)| got - want));
    // 0.1 is for values that are zero except for rounding, such as the gradient of a query with one key.
    let bound = f64::from(tolerance) * (norm(&mut want.iter().copied()) + 0.1);
    assert!(difference <= bound, "{name}: the difference {difference:e} is above {bound:e}");
}

fn rounded(x: &Tensor) -> Tensor {
    let values = x.data().iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect();
    Tensor::new(values, x.shape())
}
