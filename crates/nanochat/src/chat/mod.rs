//! Conversations to learn from and to be asked: tasks, mixtures of them, their batches, and rewards.

pub mod loader;
pub mod mixture;
pub mod reward;
pub mod stream;
pub mod tasks;
