//! Values of flags, checked where they are parsed, so that the message names the flag.

/// A finite number from 0 on, such as a learning rate.
pub fn at_least_zero(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number from 0 on is wanted".into()),
    }
}

/// A share of a whole, 0 to 1.
pub fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("a number from 0 to 1 is wanted".into()),
    }
}

/// A count of at least one that still fits into memory.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value @ 1..=1_000_000) => Ok(value),
        _ => Err("a whole number from 1 to 1000000 is wanted".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert_eq!((at_least_zero("0.02"), share("1"), count("7")), (Ok(0.02), Ok(1.0), Ok(7)));
        for bad in ["nan", "inf", "-1", "x", ""] {
            assert!(at_least_zero(bad).is_err() && share(bad).is_err() && count(bad).is_err(), "{bad}");
        }
        assert!(share("1.01").is_err() && count("0").is_err());
    }
}
