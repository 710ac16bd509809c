//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

pub mod atomic_file;
pub mod calculator;
pub mod config;
pub mod conversation;
pub mod metrics;
pub mod sampler;
