//! The step on a GPU: the same updates, in kernels of `nanochat_tensor::optim`, matrices of one shape together.

use std::collections::BTreeMap;

use nanochat_tensor::optim::{self, Muon, MuonParam};
use nanochat_tensor::{Grads, Tensor};

use super::muon::{NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS};
use super::{Moment, Optimizer, State, adamw_update};
use crate::gpt::Gpt;

impl Optimizer {
    /// As `step`; the norm is the only number that the CPU waits for, at the end.
    pub(super) fn step_on_gpu(&mut self, model: &mut Gpt, grads: &mut Grads, moment: Moment) -> f32 {
        let grad_of = |name: &str, weight: &Tensor| {
            grads.get(weight).unwrap_or_else(|| panic!("{name} got no gradient")).clone()
        };
        let all: Vec<Tensor> = model.params().iter().map(|(name, _, weight)| grad_of(name, weight)).collect();
        let clip = optim::clip_factor(&all.iter().collect::<Vec<_>>(), self.grad_clip);
        self.steps += 1;
        let mut states: BTreeMap<&str, &mut State> =
            self.state.iter_mut().map(|(n, s)| (n.as_str(), s)).collect();
        let mut matrices: BTreeMap<Vec<usize>, Vec<MuonParam>> = BTreeMap::new();
        for ((name, role, weight), grad) in model.params_mut().into_iter().zip(&all) {
            match states.remove(name.as_str()).unwrap_or_else(|| panic!("{name} has no optimizer state")) {
                State::AdamW { exp_avg, exp_avg_sq } => {
                    let update = adamw_update(&self.rates, self.steps, role, moment);
                    optim::adamw(weight, (exp_avg, exp_avg_sq), grad, &clip, update.constants());
                }
                State::Muon { momentum_buffer } => {
                    let params = matrices.entry(weight.shape().to_vec()).or_default();
                    params.push(MuonParam { weight, grad, momentum_buffer });
                }
            }
        }
        let step = Muon {
            lr: self.rates.matrix_lr * moment.lr_multiplier,
            momentum: moment.muon_momentum,
            newton_schulz: NEWTON_SCHULZ,
            newton_schulz_steps: NEWTON_SCHULZ_STEPS,
        };
        matrices.into_values().for_each(|params| optim::muon(params, &clip, step));
        clip.host()[0]
    }
}
