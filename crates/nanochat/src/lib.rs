//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

pub mod batch;
pub mod calculator;
pub mod config;
pub mod conversation;
pub mod gpt;
pub mod huggingface;
pub mod loss_eval;
pub mod optim;
pub mod sampler;
pub mod schedule;
pub mod train;
