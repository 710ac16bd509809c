//! Compares with independent implementations: `NanoChatForCausalLM` of Hugging Face transformers, and plain PyTorch for
//! the optimizers. scripts/parity/make_fixtures.py writes the numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nanochat::model::batch::Batch;
use nanochat::model::gpt::Gpt;
use nanochat::model::gpt::Rates;
use nanochat::model::huggingface::{load_model, tensor_name};
use nanochat::model::optim::{Optimizer, ScheduleValues};
use nanochat::train;
use nanochat::train::schedule::Schedule;
use nanochat_tensor::{Comm, Grads, Tape, Tensor};

const FIXTURES: [&str; 2] = ["parity_tiny", "parity_long"];
const RATES: Rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };

struct Fixture {
    model: Gpt,
    expected: BTreeMap<String, Tensor>,
    integers: BTreeMap<String, (Vec<usize>, Vec<i32>)>,
}

impl Fixture {
    fn load(name: &str) -> Fixture {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (mut expected, mut integers) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.iter() {
            let (words, _) = view.data().as_chunks::<4>();
            if view.dtype() == safetensors::Dtype::I32 {
                let values = words.iter().map(|b| i32::from_le_bytes(*b)).collect();
                integers.insert(name.to_string(), (view.shape().to_vec(), values));
            } else {
                let values = words.iter().map(|b| f32::from_le_bytes(*b)).collect();
                expected.insert(name.to_string(), Tensor::new(values, view.shape()));
            }
        }
        Fixture { model: load_model(&folder).unwrap(), expected, integers }
    }

    /// Returns the batches under a prefix; an ignored target (−1) gets weight 0.
    fn batches(&self, prefix: &str) -> Vec<Batch> {
        let (shape, inputs) = &self.integers[&format!("{prefix}inputs")];
        let (_, targets) = &self.integers[&format!("{prefix}targets")];
        let &[b, t] = shape.last_chunk().unwrap();
        let one = |(inputs, targets): (&[i32], &[i32])| Batch {
            inputs: inputs.iter().map(|&id| id as u32).collect(),
            targets: targets.iter().map(|&id| id.max(0) as u32).collect(),
            weights: targets.iter().map(|&id| if id < 0 { 0.0 } else { 1.0 }).collect(),
            shape: [b, t],
        };
        inputs.chunks(b * t).zip(targets.chunks(b * t)).map(one).collect()
    }
}

/// Returns the largest difference relative to the largest value.
fn relative_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    got.iter().zip(want).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn logits_equal_transformers_to_1e_4() {
    for name in FIXTURES {
        let fixture = Fixture::load(name);
        let batch = &fixture.batches("")[0];
        let logits = fixture.model.logits(&batch.inputs, batch.shape);
        let want = fixture.expected["logits"].data();
        let worst = logits.data().iter().zip(want).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
        println!("{name}: logits differ by at most {worst:e}");
        assert!(worst <= 1e-4, "{name}: {worst}");
    }
}

#[test]
fn loss_and_every_gradient_equal_pytorch_to_1e_4() {
    for name in FIXTURES {
        let fixture = Fixture::load(name);
        let batch = &fixture.batches("")[0];
        let tape = Tape::new();
        let (loss, _) = fixture.model.loss_sum(&tape, batch);
        let want = fixture.expected["loss_sum"].data()[0];
        assert!((loss.data()[0] / want - 1.0).abs() < 1e-5, "{name}: loss {} vs {want}", loss.data()[0]);
        let mut grads = Grads::default();
        tape.backward(&loss, 1.0 / batch.weights.iter().sum::<f32>(), &mut grads);
        for (param, _, weight) in fixture.model.params() {
            let want = &fixture.expected[&format!("grad.{}", tensor_name(&param))];
            let worst = relative_difference(grads.get(weight).unwrap().data(), want.data());
            println!("{name}: gradient of {param} differs by {worst:e}");
            assert!(worst <= 1e-4, "{name}: {param}: {worst}");
        }
    }
}

#[test]
fn ten_training_steps_follow_pytorch() {
    for name in FIXTURES {
        let mut fixture = Fixture::load(name);
        let batches = fixture.batches("train.");
        let num_iterations = batches.len();
        let schedule = Schedule::Trapezoid {
            num_iterations,
            warmup_ratio: 0.0,
            warmdown_ratio: 0.2,
            final_lr_frac: 0.0,
        };
        let mut optimizer = Optimizer::new(&fixture.model, RATES, 1.0, &Comm::alone());
        for (i, batch) in batches.into_iter().enumerate() {
            let scheduled: ScheduleValues = schedule.at(i);
            assert!(
                (scheduled.lr_multiplier - fixture.expected["train.lr_multipliers"].data()[i]).abs() < 1e-6
            );
            assert!((scheduled.muon_momentum - fixture.expected["train.momenta"].data()[i]).abs() < 1e-6);
            let result = train::step(&mut fixture.model, &mut optimizer, &[batch], scheduled).unwrap();
            let want = fixture.expected["train.losses"].data()[i];
            println!("{name}: step {i}: loss {} vs {want}", result.loss);
            assert!((result.loss - want).abs() < 1e-4, "{name}: step {i}: {} vs {want}", result.loss);
        }
        for (param, _, weight) in fixture.model.params() {
            let want = &fixture.expected[&format!("trained.{}", tensor_name(&param))];
            let worst = relative_difference(weight.data(), want.data());
            // Adam's first steps divide by √v of few values: the embedding's noise grows to 1e-4.
            assert!(worst <= 2e-3, "{name}: {param} differs by {worst} after ten steps");
        }
    }
}
