//! The nanochat model and everything that makes one. Each folder uses only those above it in this list.

pub mod terminal;

pub mod files;

pub mod model;

pub mod conversation;

pub mod engine;

pub mod ranks;

pub mod text;

pub mod world;

pub mod sandbox;

pub mod chat;

pub mod measure;

pub mod report;

pub mod plan;

pub mod train;

pub mod bench;

#[cfg(test)]
mod testing;
