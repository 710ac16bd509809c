use super::Grads;
use crate::comm::in_process;
use crate::ops::EPS;
use crate::testing::randn;
use crate::{Bucket, Comm, Device, Reduction, Tape, Tensor};

const V: usize = 7;
const C: usize = 4;
const LAYERS: usize = 3;

/// Makes the weights: a table, a vector and a matrix. The table is read at the start and multiplied with at the end
/// (tied weights); every layer adds the vector and multiplies with the matrix.
fn weights() -> [Tensor; 3] {
    [randn(&[V, C], 0), randn(&[1, C], 1), randn(&[C, C], 2)]
}

fn loss(tape: &Tape, [table, vector, matrix]: &[Tensor; 3], rank: usize, recomputed: bool) -> Tensor {
    let n = 3 + rank;
    let ids: Vec<u32> = (0..n).map(|i| ((2 * i + rank) % V) as u32).collect();
    let targets: Vec<u32> = ids.iter().map(|id| (id + 3) % V as u32).collect();
    let mut x = tape.embedding(&ids, table); // (n, C)
    for _ in 0..LAYERS {
        let (vector, matrix) = (vector.clone(), matrix.clone());
        let layer = move |tape: &Tape, x: &Tensor| {
            let x = tape.residual_add(x, &tape.embedding(&vec![0; n], &vector));
            tape.linear_add(&x, &tape.rms_norm(&x, EPS), &matrix)
        };
        x = if recomputed { tape.recompute(&x, layer) } else { layer(tape, &x) };
    }
    tape.linear_softcap_cross_entropy(&x, table, &targets, &vec![1.0; n]).0
}

fn reduction<'a>(comm: &Comm, weights: impl IntoIterator<Item = &'a Tensor>) -> Reduction {
    let bucket =
        |weight: &'a Tensor| Bucket { weights: vec![weight], part: weight.len().div_ceil(comm.world_size()) };
    Reduction::new(comm, &Device::Cpu, &weights.into_iter().map(bucket).collect::<Vec<_>>())
}

/// Returns the gradients of the sum of all ranks' losses, as each rank has them after the exchange.
fn gradients(comm: &Comm, recomputed: bool) -> Vec<Vec<f32>> {
    let weights = weights();
    let (tape, mut grads) = (Tape::new(), Grads::default());
    let loss = loss(&tape, &weights, comm.rank(), recomputed);
    grads.reduce_into(reduction(comm, &weights));
    tape.backward(&loss, 1.0, &mut grads);
    let reduction = grads.reduction.as_ref().unwrap();
    assert!(reduction.missing().is_empty(), "a gradient did not leave during backward");
    let parts = grads.reduced(|| unreachable!());
    let full = parts.into_iter().map(|part| comm.all_gather(part).wait());
    full.zip(&weights).map(|(full, weight)| full.data()[..weight.len()].to_vec()).collect()
}

fn assert_finite_differences(world_size: usize, recomputed: bool) {
    let found: Vec<Vec<Vec<f32>>> = std::thread::scope(|scope| {
        let rank = |comm| scope.spawn(move || gradients(&comm, recomputed));
        let ranks: Vec<_> = in_process(world_size).into_iter().map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank failed")).collect()
    });
    let total = |weights: &[Tensor; 3]| -> f64 {
        (0..world_size).map(|rank| f64::from(loss(&Tape::off(), weights, rank, false).item())).sum()
    };
    let h = 1e-2;
    for (n, weight) in weights().iter().enumerate() {
        for i in 0..weight.len() {
            let nudged = |delta: f32| {
                let mut weights = weights();
                weights[n].data_mut()[i] += delta;
                total(&weights)
            };
            let numeric = (nudged(h) - nudged(-h)) / (2.0 * f64::from(h));
            for found in &found {
                let got = f64::from(found[n][i]);
                let bound = 1e-2 * (1.0 + numeric.abs());
                assert!((got - numeric).abs() < bound, "weight {n}[{i}]: {got} vs {numeric}");
            }
        }
    }
}

#[test]
fn weights_that_are_used_twice_keep_both_gradients_on_every_rank() {
    for world_size in 1..=3 {
        for recomputed in [false, true] {
            assert_finite_differences(world_size, recomputed);
        }
    }
}

#[test]
#[should_panic(expected = "after it was handed over")]
fn a_gradient_that_has_left_is_not_added_to() {
    let weight = randn(&[2, 3], 0);
    let (tape, mut grads) = (Tape::new(), Grads::default());
    let (loss, _) = tape.linear_softcap_cross_entropy(&randn(&[1, 3], 1), &weight, &[1], &[1.0]);
    grads.reduce_into(reduction(&in_process(1).remove(0), [&weight]));
    tape.backward(&loss, 1.0, &mut grads);
    grads.add(&weight, randn(&[2, 3], 2));
}
