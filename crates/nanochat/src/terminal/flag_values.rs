//! Parsers for the values of flags. An error names the flag and the allowed values. The upper limits are far beyond any
//! run; within them no product of two sizes overflows, and no flag asks for more memory than there are addresses.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Parses a whole number from `LEAST` to `MOST`.
pub fn whole<N: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<N, String> {
    let value = text.parse::<u64>().ok().filter(|value| (LEAST..=MOST).contains(value));
    let value = value.and_then(|value| N::try_from(value).ok());
    value.ok_or_else(|| format!("a whole number from {LEAST} to {MOST} is wanted"))
}

/// Parses a number of things: from 0, which often means none or all, to a billion.
pub fn amount(text: &str) -> Result<usize, String> {
    whole::<usize, 0, 1_000_000_000>(text)
}

/// Parses a path that is saved with a run's settings. It must be UTF-8, since JSON cannot store any other.
pub fn kept_path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// Parses the number of steps of a run, at least one.
pub fn steps(text: &str) -> Result<usize, String> {
    whole::<usize, 1, MOST_STEPS>(text)
}

/// The maximum number of steps.
pub const MOST_STEPS: u64 = 1_000_000_000;

/// Parses a count from one to a million, whose items fit into memory.
pub fn count(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1_000_000>(text)
}

/// Parses the number of rows that are computed together.
pub fn rows(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1_024>(text)
}

/// Parses the number of characters or bytes of a corpus.
pub fn large<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    whole::<N, 0, 1_000_000_000_000_000>(text)
}

/// Parses a seed.
pub fn seed(text: &str) -> Result<u64, String> {
    whole::<u64, 0, { u64::MAX }>(text)
}

/// Parses a time in seconds, at most a week.
pub fn seconds(text: &str) -> Result<u64, String> {
    whole::<u64, 0, 604_800>(text)
}

/// Parses a finite number of at least 0, such as a learning rate.
pub fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, 0.0..=f64::MAX, "a number from 0 on is wanted")
}

/// Parses a price in dollars, from 0 to 1e12.
pub fn dollars(text: &str) -> Result<f64, String> {
    number(text, 0.0..=1e12, "a number of dollars from 0 on is wanted")
}

/// Parses a finite number above 0, such as a ratio.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, f64::MIN_POSITIVE..=f64::MAX, "a number above 0 is wanted")
}

/// Parses a fraction from 0 to 1.
pub fn share(text: &str) -> Result<f32, String> {
    number(text, 0.0..=1.0, "a number from 0 to 1 is wanted")
}

/// Parses a sampling temperature; above 2 an answer has no words any more.
pub fn temperature(text: &str) -> Result<f32, String> {
    number(text, 0.0..=2.0, "a number from 0 to 2 is wanted")
}

/// Parses a finite number whose range is checked together with others.
pub fn any(text: &str) -> Result<f32, String> {
    number(text, f64::MIN..=f64::MAX, "a number is wanted")
}

fn number<N: FromStr + Into<f64> + Copy>(
    text: &str,
    range: RangeInclusive<f64>,
    wanted: &str,
) -> Result<N, String> {
    let value = text.parse::<N>().ok().filter(|&value| range.contains(&value.into()));
    value.ok_or_else(|| wanted.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert_eq!((at_least_zero("0.02"), share("1"), count("7")), (Ok(0.02), Ok(1.0), Ok(7)));
        assert_eq!(
            (positive("1e-9"), temperature("2"), seed("18446744073709551615")),
            (Ok(1e-9), Ok(2.0), Ok(u64::MAX))
        );
        for bad in ["nan", "inf", "-1", "1e400", "x", ""] {
            assert!(at_least_zero(bad).is_err() && share(bad).is_err() && count(bad).is_err(), "{bad}");
            assert!(positive(bad).is_err() && temperature(bad).is_err() && seed(bad).is_err(), "{bad}");
        }
        assert!(share("1.01").is_err() && count("0").is_err() && positive("0").is_err());
        assert!(temperature("2.01").is_err() && steps("0").is_err() && amount("1000000001").is_err());
        // A number that becomes infinity in f32.
        assert!(at_least_zero("1e39").is_err() && positive("1e39").is_ok());
        assert_eq!(whole::<u8, 1, 300>("256"), Err("a whole number from 1 to 300 is wanted".into()));
    }
}
