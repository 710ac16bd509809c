//! Training on a GPU in bf16 against the CPU in float32: the same weights, the same batches, the same losses.

use nanochat::batch::Batch;
use nanochat::config::GptConfig;
use nanochat::gpt::Gpt;
use nanochat::optim::{Moment, Optimizer, Rates};
use nanochat::train;
use nanochat_tensor::{Device, Rng};

const STEPS: usize = 20;

#[test]
fn losses_on_the_gpu_are_those_of_the_cpu() {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(error) => {
            assert!(std::env::var_os("NANOCHAT_REQUIRE_GPU").is_none(), "{error}");
            println!("skipped: {error}");
            return;
        }
    };
    // Head_dim 128 with grouped queries, and a vocabulary that is no multiple of anything.
    let config = GptConfig::from_depth(4, 301, 96).unwrap().with_kv_heads(1).unwrap();
    let (cpu, gpu) = (losses(config, &Device::Cpu), losses(config, &device));
    println!("CPU {cpu:?}\nGPU {gpu:?}");
    assert!(cpu[STEPS - 1] < cpu[0] - 1.0, "the CPU did not learn: {cpu:?}");
    for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        assert!((cpu - gpu).abs() < 0.02, "step {step}: CPU {cpu}, GPU {gpu}");
    }
}

fn losses(config: GptConfig, device: &Device) -> Vec<f32> {
    let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.01 };
    let mut model = Gpt::init(config, 3).to_device(device);
    let mut optimizer = Optimizer::new(&model, rates, 1.0);
    let mut rng = Rng::new(&[5]);
    let moment = Moment { lr_multiplier: 1.0, muon_momentum: 0.9 };
    let mut step = |_| {
        let micro_batches: Vec<Batch> = (0..2).map(|_| batch(&mut rng, config)).collect();
        train::step(&mut model, &mut optimizer, &micro_batches, moment).unwrap().loss
    };
    (0..STEPS).map(&mut step).collect()
}

/// Text with something to learn: each token is the last plus one of few steps. Some tokens do not count.
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
