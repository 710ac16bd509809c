//! The random number generators of CPython and numpy, so that few-shot examples and data set orders equal those of the
//! reference, which uses both. All other code uses [`nanochat_tensor::Rng`].

mod cpython;
mod numpy;

pub use cpython::PythonRandom;
pub use numpy::permutation;
