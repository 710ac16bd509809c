//! What GPUs lose by giving each other gradients and weights, once a step.
//!
//! Each sends 4 · params · (n − 1)/n bytes of float32 gradients, and as many of updated weights (ZeRO-2's reduce-scatter
//! and all-gather). Gradients travel beside the last backward pass, two thirds of a micro-step; what is longer is
//! waited for. Weights are counted whole: little of the optimizer's own work lies beside them. Not counted is that products run
//! slower beside collectives: two H100 train a d20 1.945 times as fast as one, where this says 1.996.

use serde::Serialize;

use super::{Gpu, PlanOptions};
use crate::config::GptConfig;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// Milliseconds of a step in which GPUs compute.
    pub compute_ms: f64,
    /// Of gradients and weights under way.
    pub communication_ms: f64,
    /// Of these the ones in which GPUs wait.
    pub exposed_ms: f64,
    /// Speed, as a share of that of as many GPUs apart.
    pub efficiency: f64,
}

/// None for one GPU, and for the CPU, whose processes share one memory.
pub fn scaling(
    model: &GptConfig,
    flops_a_step: f64,
    grad_accum_steps: usize,
    options: &PlanOptions,
) -> Option<Scaling> {
    let gpus = options.gpus as f64;
    if options.gpus < 2 || options.gpu == Gpu::Cpu {
        return None;
    }
    let compute = flops_a_step / (gpus * options.gpu.figures().0 * options.mfu);
    let one_way = 4.0 * model.params() as f64 * (gpus - 1.0) / gpus / (1e9 * options.link_bandwidth);
    let beside = 2.0 / 3.0 * compute / grad_accum_steps as f64;
    let exposed = (one_way - beside).max(0.0) + one_way;
    Some(Scaling {
        compute_ms: 1e3 * compute,
        communication_ms: 2e3 * one_way,
        exposed_ms: 1e3 * exposed,
        efficiency: compute / (compute + exposed),
    })
}
