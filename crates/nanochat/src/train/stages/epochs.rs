//! Computes the number of steps of a chat stage: as given, or from its epochs.

use anyhow::{Result, bail};

use crate::terminal::counted::counted;
use crate::terminal::flag_values;

/// A number of epochs over data of which each step takes `per_step` items.
pub struct Epochs {
    pub num_epochs: f64,
    pub per_step: usize,
    /// The noun for one item of the data, such as `question`.
    pub item: &'static str,
    /// The flags that make a step smaller.
    pub smaller_step: &'static str,
}

impl Epochs {
    /// Returns the number of steps to train on `n` items; `given` takes precedence. Fails if that is less than one
    /// step.
    pub fn steps(&self, n: usize, given: Option<usize>) -> Result<usize> {
        let Epochs { num_epochs, per_step, item, smaller_step } = self;
        match given.unwrap_or((num_epochs * n as f64 / *per_step as f64) as usize) {
            0 => bail!(
                "a step takes {per_step} {item}s, but {num_epochs} times {} is less; say --num-epochs {}, or lower {smaller_step}",
                counted(n, item),
                per_step.div_ceil(n.max(1))
            ),
            steps if steps as u64 > flag_values::MOST_STEPS => {
                bail!(
                    "--num-epochs {num_epochs} are {steps:.2e} steps, and {} are the most",
                    flag_values::MOST_STEPS
                )
            }
            steps => Ok(steps),
        }
    }
}
