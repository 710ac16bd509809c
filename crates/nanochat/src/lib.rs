//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

pub mod batch;
pub mod chat_loader;
pub mod config;
pub mod conversation;
pub mod dataloader;
pub mod dataset;
pub mod ingest;
pub mod lines;
#[cfg(test)]
mod testing;
