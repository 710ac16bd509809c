//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

pub mod answer;
pub mod atomic_file;
pub mod batch;
pub mod bench;
pub mod calculator;
pub mod chat_eval;
pub mod chat_loader;
pub mod checkpoint;
pub mod config;
pub mod conversation;
pub mod curve;
pub mod dataloader;
pub mod dataset;
pub mod engine;
pub mod gpt;
pub mod huggingface;
pub mod ingest;
pub mod lines;
pub mod loss_eval;
pub mod make;
pub mod metrics;
pub mod optim;
mod partial_dir;
pub mod plan;
pub mod profile;
pub mod report;
pub mod sampler;
pub mod schedule;
pub mod stages;
#[cfg(test)]
mod testing;
pub mod train;
pub mod values;
pub mod world;
