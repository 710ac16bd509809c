//! The training stages. Each file has a stage's settings at the top, then its loop.

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
