//! The training stages, one loop each, with its settings on top.

pub mod base;
mod core_metric;
mod epochs;
pub mod fit;
pub mod mid;
pub mod rl;
pub mod run;
pub mod sft;
pub mod source;
pub mod task_eval;

#[cfg(test)]
mod tests;
