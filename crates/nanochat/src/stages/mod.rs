//! The training stages, one loop each, with its settings on top.

pub mod base;
pub mod fit;
pub mod run;
pub mod sft;
