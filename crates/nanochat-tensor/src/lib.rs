//! Tensors, a tape of coarse fused ops, and their CPU kernels. Knows nothing of GPTs.

mod rng;

pub use rng::Rng;
