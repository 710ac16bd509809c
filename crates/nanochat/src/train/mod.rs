//! Training: the optimizer step, the learning-rate schedule, and the stages that repeat the step.

pub mod schedule;
pub mod stages;
mod step;

pub use step::{Diverged, StepResult, step, step_meanwhile, step_over};
