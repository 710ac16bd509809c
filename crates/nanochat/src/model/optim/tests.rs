use nanochat_tensor::Rng;

use super::*;
use crate::model::config::GptConfig;
use crate::testing::on_ranks;

const RATES: Rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.01 };
const SCHEDULED: ScheduleValues = ScheduleValues { lr_multiplier: 1.0, muon_momentum: 0.9 };

/// A model of three layers, grouped keys and a vocabulary that is no round number: 18 matrices of 4 shapes.
fn model() -> Gpt {
    let (vocab_size, n_layer, n_head, n_embd) = (61, 3, 2, 24);
    let config = GptConfig {
        sequence_len: 8,
        vocab_size,
        n_layer,
        n_head,
        n_kv_head: 1,
        n_embd,
        ..GptConfig::from_depth(1, 265, 8).unwrap()
    };
    Gpt::init(config, 3)
}

/// Returns a model with its own copy of the weights.
fn copy(model: &Gpt) -> Gpt {
    let mut copy = model.clone();
    for (_, _, weight) in copy.params_mut() {
        *weight = Tensor::new(weight.data().to_vec(), weight.shape());
    }
    copy
}

/// Returns the gradients of rank `rank` of `world`, which add up to those of a single rank. The last of several has
/// none.
fn gradients(model: &Gpt, step: u64, [rank, world]: [usize; 2]) -> Grads {
    let mut grads = Grads::default();
    if rank > 0 && rank + 1 == world {
        return grads;
    }
    let givers = (world - 1).max(1) as f32;
    for (i, (_, _, weight)) in model.params().into_iter().enumerate() {
        let mut rng = Rng::new(&[step, i as u64]);
        let values = (0..weight.len()).map(|_| 0.01 * rng.normal() / givers).collect();
        grads.add(weight, Tensor::new(values, weight.shape()));
    }
    grads
}

/// Returns the weights and norms after some steps of `optimizer`.
fn trained(
    model: &mut Gpt,
    optimizer: &mut Optimizer,
    steps: std::ops::Range<u64>,
) -> (Vec<Vec<f32>>, Vec<f32>) {
    let ranks = [optimizer.comm().rank(), optimizer.comm().world_size()];
    let norms = steps.map(|step| {
        let mut grads = gradients(model, step, ranks);
        optimizer.step(model, &mut grads, SCHEDULED)
    });
    let norms = norms.collect();
    (model.params().into_iter().map(|(_, _, w)| w.data().to_vec()).collect(), norms)
}

fn assert_near(got: &[Vec<f32>], want: &[Vec<f32>]) {
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() < 1e-4 * (1.0 + want.abs()), "{got} instead of {want}");
    }
}

#[test]
fn every_value_is_updated_by_one_rank() {
    for world in [1, 2, 3, 8, 40] {
        let mut times: Vec<Vec<u8>> = model().params().iter().map(|(_, _, w)| vec![0; w.len()]).collect();
        for mine in on_ranks(world, |comm| {
            shards::shards(&model(), &RATES, &comm).into_iter().map(|shard| shard.mine).collect::<Vec<_>>()
        }) {
            for (param, range) in mine.into_iter().flatten() {
                times[param][range].iter_mut().for_each(|times| *times += 1);
            }
        }
        assert!(times.iter().flatten().all(|&times| times == 1), "{world} ranks");
    }
}

#[test]
fn any_number_of_ranks_makes_the_weights_of_one() {
    let trained = |comm: Comm| {
        let mut model = model();
        let mut optimizer = Optimizer::new(&model, RATES, 1.0, &comm);
        trained(&mut model, &mut optimizer, 0..3)
    };
    let (weights, norms) = trained(Comm::alone());
    assert!(norms.iter().all(|&norm| norm > 1.0), "nothing was clipped: {norms:?}");
    for world in [2, 3, 8, 30] {
        let ranks = on_ranks(world, trained);
        for rank in &ranks {
            assert!(rank == &ranks[0], "ranks of {world} have other weights");
        }
        assert_near(&ranks[0].0, &weights);
        assert_near(std::slice::from_ref(&ranks[0].1), std::slice::from_ref(&norms));
    }
}

#[test]
fn a_saved_state_goes_on_with_any_number_of_ranks() {
    let start = || {
        let model = model();
        let optimizer = Optimizer::new(&model, RATES, 1.0, &Comm::alone());
        (model, optimizer)
    };
    let (mut model, mut optimizer) = start();
    let (want, _) = trained(&mut model, &mut optimizer, 0..6);
    // The weights, and the optimizer state by name.
    let mut saved: (Gpt, Vec<(String, Tensor)>) = (start().0, start().1.tensors());
    for (world, steps) in [(4, 0..2), (1, 2..4), (3, 4..6)] {
        saved = on_ranks(world, |comm| {
            let mut model = copy(&saved.0);
            let mut optimizer = Optimizer::new(&model, RATES, 1.0, &comm);
            optimizer.restore(&saved.1.iter().cloned().collect(), steps.start).unwrap();
            trained(&mut model, &mut optimizer, steps.clone());
            (model, optimizer.tensors())
        })
        .swap_remove(0);
        assert_eq!(saved.1.len(), 2 * 2 + 6 * 3);
    }
    let got: Vec<Vec<f32>> = saved.0.params().into_iter().map(|(_, _, w)| w.data().to_vec()).collect();
    assert_near(&got, &want);
}

#[test]
fn a_state_that_does_not_fit_is_named() {
    let (model, mut state) = (model(), BTreeMap::new());
    let mut optimizer = Optimizer::new(&model, RATES, 1.0, &Comm::alone());
    let error = optimizer.restore(&state, 1).unwrap_err();
    assert!(error.ends_with("is missing"), "{error}");
    state.extend(optimizer.tensors());
    state.insert("lm_head.weight.exp_avg".into(), Tensor::zeros(&[3]));
    let error = optimizer.restore(&state, 1).unwrap_err();
    assert!(error.starts_with("lm_head.weight.exp_avg has shape [3]"), "{error}");
}
