//! Values of flags, checked where they are parsed: the message names the flag and says what it may be. The upper limits are far beyond
//! any run; below them no product of two sizes overflows, and no flag asks for more memory than there are addresses.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// A whole number in a range of its own.
pub fn whole<N: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<N, String> {
    let value = text.parse::<u64>().ok().filter(|value| (LEAST..=MOST).contains(value));
    let value = value.and_then(|value| N::try_from(value).ok());
    value.ok_or_else(|| format!("a whole number from {LEAST} to {MOST} is wanted"))
}

/// How many: 0, which often means none or all, to a billion.
pub fn amount(text: &str) -> Result<usize, String> {
    whole::<usize, 0, 1_000_000_000>(text)
}

/// A path that a run's settings keep: JSON, in which they are written down, has no word for one that is not UTF-8.
pub fn kept_path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// Steps of a run, at least one.
pub fn steps(text: &str) -> Result<usize, String> {
    whole::<usize, 1, MOST_STEPS>(text)
}

/// The longest run.
pub const MOST_STEPS: u64 = 1_000_000_000;

/// A count of at least one that still fits into memory.
pub fn count(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1_000_000>(text)
}

/// Rows that are computed together.
pub fn rows(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1_024>(text)
}

/// Characters or bytes of a corpus.
pub fn large<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    whole::<N, 0, 1_000_000_000_000_000>(text)
}

/// Any seed.
pub fn seed(text: &str) -> Result<u64, String> {
    whole::<u64, 0, { u64::MAX }>(text)
}

/// A wait of at most a week.
pub fn seconds(text: &str) -> Result<u64, String> {
    whole::<u64, 0, 604_800>(text)
}

/// A finite number from 0 on, such as a learning rate.
pub fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, 0.0..=f64::MAX, "a number from 0 on is wanted")
}

/// A price: of nothing, or of more than anybody has.
pub fn dollars(text: &str) -> Result<f64, String> {
    number(text, 0.0..=1e12, "a number of dollars from 0 on is wanted")
}

/// A finite number above 0, such as a ratio.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, f64::MIN_POSITIVE..=f64::MAX, "a number above 0 is wanted")
}

/// A share of a whole, 0 to 1.
pub fn share(text: &str) -> Result<f32, String> {
    number(text, 0.0..=1.0, "a number from 0 to 1 is wanted")
}

/// Randomness of an answer: beyond 2 it has no words any more.
pub fn temperature(text: &str) -> Result<f32, String> {
    number(text, 0.0..=2.0, "a number from 0 to 2 is wanted")
}

/// A finite number whose range is checked with others.
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
        // A number that f32 holds as infinity.
        assert!(at_least_zero("1e39").is_err() && positive("1e39").is_ok());
        assert_eq!(whole::<u8, 1, 300>("256"), Err("a whole number from 1 to 300 is wanted".into()));
    }
}
