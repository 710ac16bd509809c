//! Pretraining text: from files of any kind to shards of documents, and from shards to batches.

pub mod chinese;
pub mod clean;
pub mod corpus_mix;
pub mod dataloader;
pub mod dataset;
pub mod ingest;
pub mod language;
pub mod python_random;
pub mod text_stats;
