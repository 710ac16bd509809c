//! The model: its sizes, weights and forward pass, its optimizer, and the folders that hold both.

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod device_sizes;
pub mod gpt;
pub mod huggingface;
pub mod optim;
