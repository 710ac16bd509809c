//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

pub mod atomic_file;
pub mod batch;
pub mod calculator;
pub mod chat_loader;
pub mod config;
pub mod conversation;
pub mod dataloader;
pub mod dataset;
pub mod gpt;
pub mod huggingface;
pub mod lines;
pub mod loss_eval;
pub mod metrics;
pub mod optim;
pub mod plan;
pub mod sampler;
pub mod schedule;
#[cfg(test)]
mod testing;
pub mod train;
