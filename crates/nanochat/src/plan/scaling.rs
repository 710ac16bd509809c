//! The time that GPUs spend on exchanging gradients and weights, once a step.
//!
//! Each GPU sends 4 · params · (n − 1)/n bytes of float32 gradients, and as many of updated weights (ZeRO-2's
//! reduce-scatter and all-gather). Gradients are sent during the last backward pass, two thirds of a micro-step; the
//! rest of their time is exposed. Weights count fully: little of the optimizer's own work overlaps with them. Not
//! included is that products run slower beside collectives: two H100 train a d20 1.945 times as fast as one, where this
//! predicts 1.996.

use serde::Serialize;

use super::{GpuModel, PlanOptions};
use crate::model::config::GptConfig;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// Milliseconds of a step in which the GPUs compute.
    pub compute_ms: f64,
    /// Milliseconds of a step in which gradients and weights are sent.
    pub communication_ms: f64,
    /// The part of these milliseconds in which GPUs wait.
    pub exposed_ms: f64,
    /// The speed as a share of that of as many independent GPUs.
    pub efficiency: f64,
}

/// Returns None for one GPU, and for the CPU, whose processes share one memory.
pub fn scaling(
    model: &GptConfig,
    flops_a_step: f64,
    grad_accum_steps: usize,
    options: &PlanOptions,
) -> Option<Scaling> {
    let gpus = options.gpus as f64;
    if options.gpus < 2 || options.gpu == GpuModel::Cpu {
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
