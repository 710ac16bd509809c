//! Muon for the matrices inside the blocks, AdamW for embedding and head (nanochat's split).
//!
//! State is kept by parameter name, whole, whatever the number of ranks: a checkpoint does not know
//! how many made it.

mod adamw;
mod cuda;
mod muon;

use std::collections::BTreeMap;

use nanochat_tensor::{Device, Grads, Tensor, simd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::gpt::{Gpt, Role};
use crate::values;

/// Learning rates before the schedule. Those of embedding and head are for n_embd 768 and are scaled
/// by (n_embd / 768)^−½.
#[derive(Clone, Copy, Debug, clap::Args, Serialize, Deserialize)]
pub struct Rates {
    /// Learning rate of the matrices (Muon)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.02)]
    pub matrix_lr: f32,
    /// Learning rate of the embedding (AdamW)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.2)]
    pub embedding_lr: f32,
    /// Learning rate of the head (AdamW)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.004)]
    pub unembedding_lr: f32,
    /// Weight decay of embedding and head
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.0)]
    pub weight_decay: f32,
}

/// What the schedule says about one step.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub lr_multiplier: f32,
    pub muon_momentum: f32,
}

/// Both optimizers over all parameters of a model.
pub struct Optimizer {
    rates: Rates,
    /// Largest allowed global norm of the gradient; 0 is off.
    grad_clip: f32,
    /// Steps taken, for AdamW's bias correction.
    steps: u64,
    state: BTreeMap<String, State>,
}

/// The optimizer's memory of one parameter, in the parameter's shape.
enum State {
    AdamW { exp_avg: Tensor, exp_avg_sq: Tensor },
    Muon { momentum_buffer: Tensor },
}

impl Optimizer {
    pub fn new(model: &Gpt, rates: Rates, grad_clip: f32) -> Optimizer {
        let dmodel_scale = (model.config.n_embd as f32 / 768.0).powf(-0.5);
        let rates = Rates {
            embedding_lr: rates.embedding_lr * dmodel_scale,
            unembedding_lr: rates.unembedding_lr * dmodel_scale,
            ..rates
        };
        let state = model.params().into_iter().map(|(name, role, w)| (name, State::new(role, w)));
        Optimizer { rates, grad_clip, steps: 0, state: state.collect() }
    }

    /// Clips `grads` on the way, updates every weight of `model`, and returns the norm before clipping.
    pub fn step(&mut self, model: &mut Gpt, grads: &mut Grads, moment: Moment) -> f32 {
        if let Device::Cuda(_) = model.device() {
            return self.step_on_gpu(model, grads, moment);
        }
        let norm = grad_norm(model, grads);
        let clip = if self.grad_clip > 0.0 && norm > self.grad_clip { self.grad_clip / norm } else { 1.0 };
        self.steps += 1;
        let compute = model.compute;
        let mut states: BTreeMap<&str, &mut State> =
            self.state.iter_mut().map(|(n, s)| (n.as_str(), s)).collect();
        let mut matrices = Vec::new();
        for (name, role, weight) in model.params_mut() {
            let grad = grads.get(weight).unwrap_or_else(|| panic!("{name} got no gradient")).data();
            match states.remove(name.as_str()).unwrap_or_else(|| panic!("{name} has no optimizer state")) {
                State::AdamW { exp_avg, exp_avg_sq } => {
                    let update = adamw_update(&self.rates, self.steps, role, moment);
                    update.apply(weight.data_mut(), grad, clip, exp_avg.data_mut(), exp_avg_sq.data_mut());
                }
                State::Muon { momentum_buffer } => matrices.push((weight, grad, momentum_buffer)),
            }
        }
        // Matrices of a model are many and alike: a thread for each beats threads inside each.
        let lr = self.rates.matrix_lr * moment.lr_multiplier;
        matrices.into_par_iter().for_each(|(weight, grad, momentum_buffer)| {
            muon::update(weight, grad, clip, momentum_buffer.data_mut(), lr, moment.muon_momentum, compute);
        });
        norm
    }

    /// The state as named tensors, `{parameter}.{exp_avg|exp_avg_sq|momentum_buffer}`.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        self.state
            .iter()
            .flat_map(|(name, state)| match state {
                State::AdamW { exp_avg, exp_avg_sq } => {
                    vec![(format!("{name}.exp_avg"), exp_avg), (format!("{name}.exp_avg_sq"), exp_avg_sq)]
                }
                State::Muon { momentum_buffer } => vec![(format!("{name}.momentum_buffer"), momentum_buffer)],
            })
            .collect()
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes up what `tensors` and `steps` gave. Names the first tensor that is missing or has another
    /// shape.
    pub fn restore(&mut self, mut tensors: BTreeMap<String, Tensor>, steps: u64) -> Result<(), String> {
        let mut take = |name: String, into: &mut Tensor| match tensors.remove(&name) {
            Some(tensor) if tensor.shape() == into.shape() => {
                *into = tensor.to_device(&into.device());
                Ok(())
            }
            Some(tensor) => {
                Err(format!("{name} has shape {:?} instead of {:?}", tensor.shape(), into.shape()))
            }
            None => Err(format!("{name} is missing")),
        };
        for (name, state) in &mut self.state {
            match state {
                State::AdamW { exp_avg, exp_avg_sq } => {
                    take(format!("{name}.exp_avg"), exp_avg)?;
                    take(format!("{name}.exp_avg_sq"), exp_avg_sq)?;
                }
                State::Muon { momentum_buffer } => take(format!("{name}.momentum_buffer"), momentum_buffer)?,
            }
        }
        self.steps = steps;
        Ok(())
    }
}

impl State {
    /// Matrices go to Muon; vectors and scalars, wherever they stand, to AdamW.
    fn new(role: Role, weight: &Tensor) -> State {
        match role {
            Role::Matrix if weight.shape().len() == 2 => State::Muon { momentum_buffer: weight.zeros_like() },
            _ => State::AdamW { exp_avg: weight.zeros_like(), exp_avg_sq: weight.zeros_like() },
        }
    }
}

fn adamw_update(rates: &Rates, step: u64, role: Role, moment: Moment) -> adamw::Update {
    let base = if role == Role::Embedding { rates.embedding_lr } else { rates.unembedding_lr };
    adamw::Update { lr: base * moment.lr_multiplier, weight_decay: rates.weight_decay, step }
}

/// The norm of all gradients together.
fn grad_norm(model: &Gpt, grads: &Grads) -> f32 {
    let squares = |w: &Tensor| grads.get(w).map_or(0.0, |g| simd::sum_of_squares(g.data()));
    model.params().into_iter().map(|(_, _, w)| squares(w)).sum::<f64>().sqrt() as f32
}
