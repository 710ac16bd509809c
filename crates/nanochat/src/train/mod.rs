//! Training: one step, the schedule of its rates, and the stages that repeat it.

pub mod schedule;
pub mod stages;
mod step;

pub use step::{Diverged, StepResult, step, step_meanwhile, step_over};
