//! The nanochat model and everything that makes one: data, training stages, evaluation, inference.

pub mod config;
pub mod conversation;
pub mod world;
