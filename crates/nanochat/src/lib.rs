//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

mod atomic_file;
pub mod batch;
pub mod calculator;
pub mod chat_loader;
pub mod config;
pub mod conversation;
pub mod dataloader;
pub mod dataset;
pub mod gpt;
pub mod huggingface;
pub mod ingest;
pub mod lines;
pub mod loss_eval;
pub mod make;
pub mod metrics;
pub mod optim;
mod partial_dir;
pub mod sampler;
pub mod schedule;
#[cfg(test)]
mod testing;
pub mod train;
pub mod world;
