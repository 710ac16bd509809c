//! How many steps a chat stage takes: as given, or what its epochs come to.

use anyhow::{Result, bail};

use crate::terminal::counted::counted;
use crate::terminal::flag_values;

/// Times to go through the data, `per_step` of it in one step.
pub struct Epochs {
    pub num_epochs: f64,
    pub per_step: usize,
    /// What the data is made of, such as `question`.
    pub item: &'static str,
    /// The flags that make a step smaller.
    pub smaller_step: &'static str,
}

impl Epochs {
    /// Steps to train on `n` items; `given` wins.
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
