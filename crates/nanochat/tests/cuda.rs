//! Compares training on a GPU in bf16 with the CPU in float32: the same weights and batches must give the same losses.

use std::thread;

use nanochat::measure::span_loss::{ScoredSpan, after_each, argmax, span_losses, spans_are_greedy};
use nanochat::model::batch::Batch;
use nanochat::model::config::{GptConfig, Recompute};
use nanochat::model::gpt::Gpt;
use nanochat::model::gpt::Rates;
use nanochat::model::optim::{Optimizer, ScheduleValues};
use nanochat::ranks::mine_of;
use nanochat::train;
use nanochat_tensor::comm::in_process;
use nanochat_tensor::{Comm, Device, Grads, Rng, Tensor};

const STEPS: usize = 20;

/// Returns the GPU, or prints that the test was skipped. Panics instead if NANOCHAT_REQUIRE_GPU is set.
fn gpu() -> Option<Device> {
    let device = Device::cuda(0);
    if let Err(error) = &device {
        assert!(std::env::var_os("NANOCHAT_REQUIRE_GPU").is_none(), "{error}");
        println!("skipped: {error}");
    }
    device.ok()
}

/// Returns a configuration with head_dim 128, grouped queries, and a vocabulary size of no special alignment.
fn small() -> GptConfig {
    GptConfig::from_depth(4, 301, 96).unwrap().with_kv_heads(1).unwrap()
}

#[test]
fn losses_on_the_gpu_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    let losses = |device| losses(small(), device, Recompute::None, &Comm::alone());
    let (cpu, gpu) = (losses(&Device::Cpu), losses(&device));
    println!("CPU {cpu:?}\nGPU {gpu:?}");
    assert!(cpu[STEPS - 1] < cpu[0] - 1.0, "the CPU did not learn: {cpu:?}");
    for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        assert!((cpu - gpu).abs() < 0.02, "step {step}: CPU {cpu}, GPU {gpu}");
    }
}

/// Covers shared prefixes, the padding that only a GPU has, and both kinds of answers.
#[test]
fn texts_are_as_likely_on_the_gpu_as_on_the_cpu() {
    let Some(device) = gpu() else { return };
    let cpu = random(small());
    let gpu = cpu.clone().to_device(&device).unwrap();
    let group = |i: usize| -> Vec<ScoredSpan> {
        let mut rng = Rng::new(&[5, i as u64]);
        let mut ids = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.below(301) as u32).collect() };
        let begin = ids(3 + 7 * i);
        let ends: Vec<Vec<u32>> = (1..5).map(ids).collect();
        ends.into_iter()
            .map(|end| ScoredSpan { ids: [begin.clone(), end].concat(), start: begin.len() })
            .collect()
    };
    let groups: Vec<Vec<ScoredSpan>> = (0..60).map(group).collect();
    let groups: Vec<&[ScoredSpan]> = groups.iter().map(Vec::as_slice).collect();
    for (cpu, gpu) in span_losses(&cpu, &groups).iter().zip(span_losses(&gpu, &groups)) {
        assert!((cpu - gpu).abs() < 0.05, "CPU {cpu}, GPU {gpu}");
    }
    let prompts: Vec<Vec<u32>> = groups.iter().map(|group| group[0].ids.clone()).collect();
    let letters = |model| after_each(model, &prompts, &[65, 66, 67, 68], |_, logits| logits.to_vec());
    for (cpu, gpu) in letters(&cpu).iter().flatten().zip(letters(&gpu).iter().flatten()) {
        assert!((cpu - gpu).abs() < 0.1, "CPU {cpu}, GPU {gpu}");
    }
    // Text that the model itself would write is greedy on the GPU too, unless two tokens are nearly equal.
    let own = |ids: &Vec<u32>| {
        let logits = cpu.logits(ids, [1, ids.len()]);
        let last = &logits.data()[(ids.len() - 1) * 301..];
        let best = argmax(last);
        let is_clear = last.iter().enumerate().all(|(i, z)| i == best || last[best] - z > 0.1);
        let ids = [ids.as_slice(), &[best as u32]].concat();
        is_clear.then(|| [ScoredSpan { start: ids.len() - 1, ids }])
    };
    let own: Vec<[ScoredSpan; 1]> = prompts.iter().filter_map(own).collect();
    let own: Vec<&[ScoredSpan]> = own.iter().map(|span| span.as_slice()).collect();
    assert!(own.len() > 20 && spans_are_greedy(&gpu, &own).iter().all(|&greedy| greedy));
}

/// Returns a model without zero weights.
fn random(config: GptConfig) -> Gpt {
    let mut model = Gpt::init(config, 1);
    for (i, (_, _, w)) in model.params_mut().into_iter().enumerate() {
        let (mut rng, std) = (Rng::new(&[7, i as u64]), (w.cols() as f32).sqrt().recip());
        w.data_mut().iter_mut().for_each(|w| *w = std * rng.normal());
    }
    model
}

#[test]
fn recomputing_on_the_gpu_gives_the_same_losses() {
    let Some(device) = gpu() else { return };
    let [none, mlp, block] = [Recompute::None, Recompute::Mlp, Recompute::Block]
        .map(|recompute| losses(small(), &device, recompute, &Comm::alone()));
    for (step, none) in none.iter().enumerate() {
        for (name, other) in [("mlp", mlp[step]), ("block", block[step])] {
            assert!((none - other).abs() < 1e-3, "step {step}: none {none}, {name} {other}");
        }
    }
}

/// Both get the same gradients. AdamW is float32 on both, so differences stay below 1e-4; Muon's iteration is bf16 on
/// the GPU.
#[test]
fn updates_on_the_gpu_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    let updated = |device: &Device| {
        let mut model = Gpt::init(small(), 3).to_device(device).unwrap();
        let before: Vec<Vec<f32>> = model.params().iter().map(|(_, _, w)| w.host().into_owned()).collect();
        let mut optimizer = Optimizer::new(&model, RATES, 1.0, &Comm::alone());
        let norms: Vec<f32> = (0..3)
            .map(|step| {
                let mut grads = Grads::default();
                for (i, (_, _, weight)) in model.params().iter().enumerate() {
                    let mut rng = Rng::new(&[step, i as u64]);
                    let values = (0..weight.len()).map(|_| 0.01 * rng.normal()).collect();
                    grads.add(weight, Tensor::new(values, weight.shape()).to_device(device));
                }
                optimizer.step(&mut model, &mut grads, SCHEDULED)
            })
            .collect();
        let params = model.params();
        let change = |((name, _, w), before): (&(String, _, &Tensor), &Vec<f32>)| {
            (name.clone(), w.host().iter().zip(before).map(|(w, before)| w - before).collect::<Vec<f32>>())
        };
        (norms, params.iter().zip(&before).map(change).collect::<Vec<_>>())
    };
    let (cpu, gpu) = (updated(&Device::Cpu), updated(&device));
    for (cpu, gpu) in cpu.0.iter().zip(&gpu.0) {
        assert!((cpu - gpu).abs() < 1e-4 * cpu, "norms: CPU {cpu}, GPU {gpu}");
    }
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    for ((name, cpu), (_, gpu)) in cpu.1.iter().zip(&gpu.1) {
        let difference = norm(&mut cpu.iter().zip(gpu).map(|(a, b)| a - b)) / norm(&mut cpu.iter().copied());
        let tolerance = if name.contains(".h.") { 5e-2 } else { 1e-4 };
        assert!(difference <= tolerance, "{name}: {difference}");
    }
}

const RATES: Rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.01 };
const SCHEDULED: ScheduleValues = ScheduleValues { lr_multiplier: 1.0, muon_momentum: 0.9 };

/// Two threads, each with its own stream, which exchange everything through the CPU.
#[test]
fn two_ranks_on_one_gpu_make_the_losses_of_one() {
    let Some(device) = gpu() else { return };
    let one = losses(small(), &device, Recompute::None, &Comm::alone());
    let two: Vec<Vec<f32>> = thread::scope(|scope| {
        let start = |comm| {
            let losses = move || losses(small(), &Device::cuda(0).unwrap(), Recompute::None, &comm);
            scope.spawn(losses)
        };
        let threads: Vec<_> = in_process(2).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("one {one:?}\ntwo {:?}", two[0]);
    assert_eq!(two[0], two[1]);
    for (step, (one, two)) in one.iter().zip(&two[0]).enumerate() {
        assert!((one - two).abs() < 0.02, "step {step}: one {one}, two {two}");
    }
}

#[test]
fn one_rank_trains_through_nccl_as_it_does_alone() {
    let Some(device) = gpu() else { return };
    let comm = match Comm::alone().with_nccl(&device) {
        Ok(comm) => comm,
        Err(error) => {
            assert!(std::env::var_os("NANOCHAT_REQUIRE_NCCL").is_none(), "{error}");
            return println!("skipped: {error}");
        }
    };
    let [alone, through_nccl] =
        [&Comm::alone(), &comm].map(|comm| losses(small(), &device, Recompute::None, comm));
    assert_eq!(alone, through_nccl);
}

fn losses(config: GptConfig, device: &Device, recompute: Recompute, comm: &Comm) -> Vec<f32> {
    let mut model = Gpt::init(config, 3).to_device(device).unwrap();
    model.recompute = recompute;
    let mut optimizer = Optimizer::new(&model, RATES, 1.0, comm);
    let mut rng = Rng::new(&[5]);
    let mut step = |_| {
        let all = (0..2).map(|_| Ok::<_, ()>(batch(&mut rng, config)));
        let micro_batches: Vec<Batch> = mine_of(comm, all).map(Result::unwrap).collect();
        train::step(&mut model, &mut optimizer, &micro_batches, SCHEDULED).unwrap().loss
    };
    (0..STEPS).map(&mut step).collect()
}

/// Returns a batch with something to learn: each token is the last one plus one of few steps. Some tokens have no
/// weight.
fn batch(rng: &mut Rng, config: GptConfig) -> Batch {
    let [b, t] = [3, config.sequence_len];
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..b {
        let mut token = rng.below(config.vocab_size);
        for _ in 0..t {
            inputs.push(token as u32);
            token = (token + [1, 7, 30][rng.below(3)]) % config.vocab_size;
            targets.push(token as u32);
        }
    }
    let weights = (0..b * t).map(|n| if n % 11 == 0 { 0.0 } else { 1.0 }).collect();
    Batch { inputs, targets, weights, shape: [b, t] }
}
