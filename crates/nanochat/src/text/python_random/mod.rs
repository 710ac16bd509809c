//! The random draws of CPython and numpy, so that few-shot examples and orders of data sets are those of the
//! reference, which uses both. Everything else of ours draws from [`nanochat_tensor::Rng`].

mod cpython;
mod numpy;

pub use cpython::PythonRandom;
pub use numpy::permutation;
